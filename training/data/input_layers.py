"""The first layer of a published net: raw values in, centred and scaled values on.

Being a layer, it is exported with the net: a served request passes the same arithmetic as a training row, bit for bit.
"""
# Shapes: N rows, B rows of a batch, F features or channels, T steps, V levels of one feature.

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """(x - mean) / deviation in float32, per column of a table, channel of a picture or feature of a series."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, fill: bool = False) -> None:
        """Keep statistics that broadcast over a batch; with `fill`, a value that is missing (NaN) becomes the mean."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self._fill = fill

    @classmethod
    def fit(cls, x: Tensor, axis: int = 1, fill: bool = False) -> "Standardize":
        """Measure the training rows, and only them.

        Args:
            x: shape (N, ...), any number type; NaN is left out. A constant feature keeps its scale.
            axis: which one is F.
            fill: whether a missing value is filled; else NaN stays NaN, as a step that fills up a series must.
        """
        f = torch.moveaxis(x, axis, 0).flatten(1).to(torch.float64)
        mean = f.nanmean(1)
        deviation = (f - mean[:, None]).square().nanmean(1).sqrt()
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        shape = [1] * x.ndim
        shape[axis] = -1
        return cls(mean.float().reshape(shape), deviation.float().reshape(shape), fill)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, ...) of any number type to the same shape in float32."""
        scaled = (x.to(torch.float32) - self.mean) / self.std
        return torch.where(scaled.isnan(), 0.0, scaled) if self._fill else scaled


class EncodeColumns(nn.Module):
    """A table that mixes numbers and levels: numbers are standardised, levels become one column each (one-hot).

    A level comes as its place among the feature's levels; one that is missing (NaN) has a 1 in none of the columns.
    """

    numbers: Tensor

    def __init__(self, numbers: Standardize, levels: Sequence[int | None]) -> None:
        """Take the number of levels of each feature, None for a number."""
        super().__init__()
        self.standardise = numbers
        self.register_buffer("numbers", torch.tensor([i for i, count in enumerate(levels) if count is None]))
        self._levels = [(index, count) for index, count in enumerate(levels) if count is not None]
        self.width = len(self.numbers) + sum(count for _, count in self._levels)

    @classmethod
    def fit(cls, x_NF: Tensor, levels: Sequence[int | None], fill: bool) -> "EncodeColumns":
        """Measure the numbers of the training rows."""
        numbers = [index for index, count in enumerate(levels) if count is None]
        return cls(Standardize.fit(x_NF[:, numbers], fill=fill), levels)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Float32 (B, F) to (B, numbers + all levels)."""
        hot = [
            (x_BF[:, index, None] == torch.arange(count, device=x_BF.device)).to(torch.float32)
            for index, count in self._levels
        ]
        return torch.cat([self.standardise(x_BF[:, self.numbers]), *hot], 1)
