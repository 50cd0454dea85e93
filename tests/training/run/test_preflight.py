"""What a rehearsal finds wrong in a recipe, before any worker starts."""

import pytest
import torch
from torch import Tensor, nn

from tests.training.worker.local_workers import Tower, rings
from training.data.dataset import Dataset
from training.errors import UserError
from training.recipe.load import override_recipe
from training.recipe.spec import Data, Loss, Net, Recipe
from training.run.preflight import run_preflight

HERE = "tests.training.test_rehearsal"


class Raising(Tower):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 // 0)


class Wide(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 5)


def unreadable() -> Dataset:
    raise FileNotFoundError("/nowhere")


def each_rows_loss(y: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(y, target, reduction="none")


BROKEN: dict[str, tuple[str, str]] = {
    "a net that raises": (f"net.source={HERE}:Raising", "rings fails at its first step: ZeroDivisionError"),
    "a net of too many columns": (f'net={{"source": "{HERE}:Wide"}}', r"must give \(2, 2\)"),
    "a loss that cannot be imported": (f"loss.source={HERE}:nothing", "names nothing"),
    "a loss of each row": (f"loss.source={HERE}:each_rows_loss", "return the mean over rows"),
    "data that cannot be read": (f"data.source={HERE}:unreadable", "FileNotFoundError: /nowhere"),
    "more rows in a step than there are": ("batch_rows=4000", "training rows; lower it"),
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


def test_a_recipe_that_fits_together_passes() -> None:
    torch.manual_seed(0)
    run_preflight(recipe())


@pytest.mark.parametrize("case", BROKEN)
def test_a_recipe_that_cannot_run_is_refused_with_what_is_wrong(case: str) -> None:
    changed, said = BROKEN[case]

    with pytest.raises(UserError, match=said):
        run_preflight(override_recipe(recipe(), [changed]))
