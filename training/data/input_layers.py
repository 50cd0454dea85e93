"""Input layers: the first layer of a published net standardizes numbers and one-hot encodes categories.

As a layer it is exported with the net: a served request passes the same arithmetic as a training row, bit for bit.
"""
# Shapes: N rows, B rows of a batch, F features or channels, T time steps.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.errors import UserError

# float32 does not hold all of their values.
_WIDE_TYPES = (torch.int32, torch.int64, torch.float64)


class Standardize(nn.Module):
    """(x - mean) / std as float32, per column of a table, channel of an image or feature of a series.

    Wide integers and float64 are standardized in float64: of times in seconds, float32 would keep minutes only.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, impute_missing: bool = False) -> None:
        """Take statistics that broadcast over a batch; with `impute_missing`, NaN becomes the mean."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self._impute_missing = impute_missing

    @classmethod
    def fit(cls, x: Tensor, feature_dim: int = 1, impute_missing: bool = False) -> "Standardize":
        """Compute the statistics of the training rows.

        Args:
            x: shape (N, ...), any number type; NaN is ignored. A constant feature keeps its scale.
            feature_dim: the dimension of size F.
            impute_missing: whether NaN becomes the mean; else it stays NaN, as the padding of a series must.
        """
        x_F = torch.moveaxis(x, feature_dim, 0).flatten(1).to(torch.float64)
        mean_F = x_F.nanmean(1)
        std_F = (x_F - mean_F[:, None]).square().nanmean(1).sqrt()
        std_F = torch.where(std_F > 0, std_F, torch.ones_like(std_F))
        if mean_F.isnan().any():
            raise UserError(
                f"feature {int(mean_F.isnan().nonzero()[0])}, counted from 0, has no value in any training row; leave "
                "it out"
            )
        shape = [1] * x.ndim
        shape[feature_dim] = -1
        dtype = torch.float64 if x.dtype in _WIDE_TYPES else torch.float32
        return cls(mean_F.to(dtype).reshape(shape), std_F.to(dtype).reshape(shape), impute_missing)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, ...) of any number type to the same shape in float32."""
        scaled = ((x.to(self.mean.dtype) - self.mean) / self.std).to(torch.float32)
        return torch.where(scaled.isnan(), 0.0, scaled) if self._impute_missing else scaled


class EncodeColumns(nn.Module):
    """A table of numbers and categories: numbers are standardized, categories one-hot encoded.

    A category comes as its index among those of its feature; a missing one (NaN) is encoded as zeros.
    """

    numeric_index: Tensor

    def __init__(self, standardize: Standardize, category_counts: Sequence[int | None]) -> None:
        """Take the number of categories of each feature, None for a number."""
        super().__init__()
        self.standardize = standardize
        numeric_index = [index for index, count in enumerate(category_counts) if count is None]
        # The dtype matters where no feature is a number: an empty tensor of floats is no index.
        self.register_buffer("numeric_index", torch.tensor(numeric_index, dtype=torch.int64))
        self._categorical = [(index, count) for index, count in enumerate(category_counts) if count is not None]
        self.out_features = len(numeric_index) + sum(count for _, count in self._categorical)

    @classmethod
    def fit(cls, x_NF: Tensor, category_counts: Sequence[int | None], impute_missing: bool) -> "EncodeColumns":
        """Compute the statistics of the training rows' numbers."""
        numeric_index = [index for index, count in enumerate(category_counts) if count is None]
        return cls(Standardize.fit(x_NF[:, numeric_index], impute_missing=impute_missing), category_counts)

    def forward(self, x_BF: Tensor) -> Tensor:
        """float32 (B, F) to (B, out_features): the numbers, then a column per category."""
        one_hot = [
            (x_BF[:, index, None] == torch.arange(count, device=x_BF.device)).to(torch.float32)
            for index, count in self._categorical
        ]
        return torch.cat([self.standardize(x_BF[:, self.numeric_index]), *one_hot], 1)
