"""Errors in a recipe that the preflight finds, before any worker starts."""

import json
from pathlib import Path

import pytest
from torch import Tensor, nn

from tests.training.worker.local_workers import Tower, rings
from training.data.dataset import Dataset
from training.errors import UserError
from training.recipe.load import override_recipe
from training.recipe.spec import Data, Loss, Net, Recipe
from training.run.preflight import check_sources, run_preflight

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
    "a net that raises": (
        f"net.source={MODULE}:Raising",
        r"rings fails at its first step: ZeroDivisionError: .* \(test_preflight.py, line \d+\), in 1 ",
    ),
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"net.source={MODULE}:Nothing", f"'{MODULE}:Nothing' names nothing that can be imported"),
        ("data.source=nowhere:rows", "'nowhere:rows' names nothing that can be imported"),
        ("loss.source=torch:nothing", "'torch:nothing' names nothing that can be imported"),
        ('data={"path": "nowhere.csv", "format": "csv", "target": "y"}', r"data.path '.*/nowhere.csv' cannot be read"),
    ],
)
def test_what_a_recipe_names_and_is_not_there_is_found_without_a_step(override: str, message: str) -> None:
    check_sources(recipe())

    with pytest.raises(UserError, match=message):
        check_sources(override_recipe(recipe(), [override]))


def test_a_column_that_a_file_lacks_is_found_without_a_step(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("length,kind\n1.5,a\n")
    files = {"path": str(tmp_path / "rows.csv"), "format": "csv", "target": "species"}

    with pytest.raises(UserError, match=r"rows.csv has no column 'species'; it has length, kind$"):
        check_sources(override_recipe(recipe(), [f"data={json.dumps(files)}"]))


def test_a_valid_recipe_passes_and_its_models_input_schema_is_known() -> None:
    assert run_preflight(recipe()) == rings().input_schema


@pytest.mark.parametrize("case", INVALID)
def test_a_recipe_that_cannot_run_is_refused_with_the_reason(case: str) -> None:
    override, message = INVALID[case]

    with pytest.raises(UserError, match=message):
        run_preflight(override_recipe(recipe(), [override]))


class Unused(Tower):
    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.spare = nn.Linear(2, 2)


class Frozen(Unused):
    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.spare.requires_grad_(False)


class Normalized(nn.Module):
    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.tower = Tower(num_features, num_classes)
        self.norm = nn.BatchNorm1d(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.tower(x))


def test_parameters_that_the_loss_does_not_reach_are_named_where_workers_would_wait_for_them() -> None:
    unused = override_recipe(recipe(), [f"net.source={MODULE}:Unused"])

    with pytest.raises(
        UserError, match=r"the loss does not reach 1\.spare\.weight, 1\.spare\.bias: .*requires_grad_\(False\)"
    ):
        run_preflight(unused, workers=2)
    run_preflight(unused, workers=1)
    run_preflight(override_recipe(recipe(), [f"net.source={MODULE}:Frozen"]), workers=2)


def test_a_layer_that_cannot_take_a_workers_share_is_named() -> None:
    normalized = override_recipe(recipe(), [f"net.source={MODULE}:Normalized"])

    with pytest.raises(
        UserError,
        match=r"fails at its first step: ValueError: Expected more than 1 value per channel.*, in 1\.norm "
        r"\(BatchNorm1d\) with 1 rows, of the 1 that a worker has in a step",
    ):
        run_preflight(normalized, workers=16)
    run_preflight(normalized, workers=8)
