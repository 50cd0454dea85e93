"""Errors in a recipe that the preflight finds, before any worker starts."""

import pytest
import torch
from torch import Tensor, nn

from tests.training.worker.local_workers import Tower, rings
from training.data.dataset import Dataset
from training.errors import UserError
from training.recipe.load import override_recipe
from training.recipe.spec import Data, Loss, Net, Recipe
from training.run.preflight import run_preflight

MODULE = "tests.training.run.test_preflight"


class Raising(Tower):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 // 0)


class TooManyColumns(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 5)


def unreadable() -> Dataset:
    raise FileNotFoundError("/nowhere")


def with_an_old_parameter() -> Dataset:
    return Dataset([1.0], words=None)  # type: ignore[call-arg]


def loss_per_row(y: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(y, target, reduction="none")


INVALID: dict[str, tuple[str, str]] = {
    "a net that raises": (f"net.source={MODULE}:Raising", "rings fails at its first step: ZeroDivisionError"),
    "a net of too many columns": (f'net={{"source": "{MODULE}:TooManyColumns"}}', r"must return \(2, 2\)"),
    "a loss that cannot be imported": (f"loss.source={MODULE}:nothing", "names nothing"),
    "a loss per row": (f"loss.source={MODULE}:loss_per_row", "return the mean over rows"),
    "data that cannot be read": (f"data.source={MODULE}:unreadable", "FileNotFoundError: /nowhere"),
    "data with an old parameter": (
        f"data.source={MODULE}:with_an_old_parameter",
        "unexpected keyword argument 'words'; 'words' is called 'input_schema' now",
    ),
    "more rows in a step than there are": ("batch_size=4000", "batch_size=4000 is more than the .* lower it"),
}


def recipe() -> Recipe:
    return Recipe(
        name="rings",
        task="tabular-classification",
        data=Data(source=rings),
        net=Net(source=Tower),
        loss=Loss(source=nn.functional.cross_entropy),
        batch_size=16,
    )


def test_a_valid_recipe_passes() -> None:
    torch.manual_seed(0)
    run_preflight(recipe())


@pytest.mark.parametrize("case", INVALID)
def test_a_recipe_that_cannot_run_is_refused_with_the_reason(case: str) -> None:
    override, message = INVALID[case]

    with pytest.raises(UserError, match=message):
        run_preflight(override_recipe(recipe(), [override]))
