"""A net that gives NaN or infinity for its bundle's own example is refused before it takes a request."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments.models.example_check import find_invalid
from deployments.models.served_model import ServedModel
from deployments.specs.model_deployment import ModelEndpoint
from tests.small_bundles import TWO_FEATURES
from training.bundle.save import save_bundle
from training.errors import UserError

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("y", "of_scores", "of_numbers"),
    [
        ([[1.0, -2.0]], "", ""),
        ([[1.0, NAN]], "is NaN", "is NaN"),
        ([[1.0, INF]], "is infinite", "is infinite"),
        # A class that the net rules out; but not all of them, of which no scores can be made.
        ([[1.0, -INF]], "", "is infinite"),
        ([[-INF, -INF]], "is minus infinity for every class", "is infinite"),
        ([[[1.0, -INF], [-INF, -INF]]], "is minus infinity for every class", "is infinite"),
        ([[-INF, NAN]], "is NaN", "is NaN"),
    ],
)
def test_scores_may_be_minus_infinity_where_others_are_not_and_nothing_may_be_nan(
    y: list[object], of_scores: str, of_numbers: str
) -> None:
    array = np.array(y, np.float32)

    assert find_invalid(array, is_maskable=True) == of_scores
    assert find_invalid(array, is_maskable=False) == of_numbers


def test_whole_numbers_are_always_valid() -> None:
    assert find_invalid(np.array([[2**31 - 1]], np.int32), is_maskable=False) == ""


class Overflow(nn.Module):
    """Infinity for every row."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / (x - x)


class Root(nn.Module):
    """NaN for a negative feature."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


def test_a_model_whose_example_gives_infinity_does_not_load(tmp_path: Path) -> None:
    manifest = save_bundle(tmp_path / "b", Overflow(), inputs=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), info=TWO_FEATURES)
    endpoint = ModelEndpoint(name="x", version=1, digest=manifest.computed_digest(), uri=f"file://{tmp_path / 'b'}")

    with pytest.raises(
        UserError, match=r"x in fp32: output 'logits' is infinite for row 0 of the bundle's own example"
    ):
        ServedModel(endpoint, tmp_path / "cache")


def test_a_net_that_gives_nan_is_not_even_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the net gives NaN for these inputs"):
        save_bundle(tmp_path / "b", Root(), inputs=torch.tensor([[-1.0, 2.0], [3.0, 4.0]]), info=TWO_FEATURES)
