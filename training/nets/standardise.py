"""The first layer of every published net: raw values in, centred and scaled values on.

Being a layer, it is exported with the net: a served request passes the same arithmetic as a training row, bit for bit.
"""
# Shapes: N rows, B rows of a batch, F features or channels.

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """(x - mean) / deviation, per feature of a table or per channel of an image, in float32."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean_F: Tensor, deviation_F: Tensor, dims: int) -> None:
        """Keep statistics for inputs of `dims` dimensions, whose second one is F."""
        super().__init__()
        shape = (1, -1, *[1] * (dims - 2))
        self.register_buffer("mean", mean_F.reshape(shape))
        self.register_buffer("deviation", deviation_F.reshape(shape))

    @classmethod
    def fit(cls, x_NF: Tensor) -> "Standardise":
        """Measure the training rows, and only them; shape (N, F, ...). A constant feature keeps its scale."""
        x = x_NF.to(torch.float64)
        over = [d for d in range(x.ndim) if d != 1]
        mean, deviation = x.mean(over), x.std(over, correction=0)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return cls(mean.float(), deviation.float(), x.ndim)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, F, ...) of any number type to the same shape in float32."""
        return (x.to(torch.float32) - self.mean) / self.deviation
