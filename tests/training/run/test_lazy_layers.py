"""Nets whose sizes come from their rows: lazy layers, and the width that a row has after encoding."""

from datetime import datetime

import pytest
import torch
from torch import Tensor, nn

from training import tasks
from training.bundle.card import render_card
from training.bundle.manifest import Manifest
from training.data.dataset import Dataset
from training.data.preprocessing import prepare_dataset
from training.errors import UserError
from training.recipe.spec import Data, Net, Recipe
from training.run.preflight import run_preflight
from training.schema import Feature, TableInput
from training.worker import build

MODULE = "tests.training.run.test_lazy_layers"
SCHEMA = TableInput(features=("length", Feature(name="color", categories=("red", "white", "blue"))))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Unused(Lazy):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.LazyLinear(3)


def flowers() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    length = torch.randn(200, generator=generator)
    color = torch.randint(0, 3, (200,), generator=generator)
    return Dataset(
        inputs=torch.stack([length, color.float()], 1),
        targets=(length > 0).long(),
        labels=("short", "long"),
        input_schema=SCHEMA,
        source="drawn at random",
        license="none needed",
    )


def recipe(net: str) -> Recipe:
    return Recipe(
        name="flowers",
        task="tabular-classification",
        data=Data(source=flowers),
        net=Net(source=f"{MODULE}:{net}"),
        batch_size=16,
    )


def test_a_net_of_lazy_layers_passes_the_preflight_which_says_the_encoded_width() -> None:
    schema = run_preflight(recipe("Lazy"))

    assert isinstance(schema, TableInput)
    assert schema.describe_encoding() == "4 numbers a row: length, color (3 categories)"


def test_lazy_layers_have_their_sizes_before_any_step_and_the_same_weights_from_the_same_seed() -> None:
    dataset, splits, fitted = prepare_dataset(recipe("Lazy"))
    task = tasks.make_task(recipe("Lazy"), dataset, fitted)
    rows = task.encode_rows(dataset.select(splits["train"]))
    built = []
    for _ in range(2):
        torch.manual_seed(3)
        built.append(build.build_net(recipe("Lazy"), task, rows))

    first, second = (net.state_dict() for net in built)
    assert first["1.layers.0.weight"].shape == (8, 4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert built[0].training
    # No row has been counted among the statistics.
    assert torch.equal(first["1.layers.1.running_mean"], torch.zeros(8))


def test_a_lazy_layer_that_no_row_passes_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"no row passes the lazy layer '1\.spare'; use it in forward, or remove it"):
        run_preflight(recipe("Unused"))


def test_a_wide_table_is_described_in_one_line() -> None:
    wide = TableInput(features=tuple(f"x{index}" for index in range(500)))

    assert wide.describe_encoding().startswith("500 numbers a row: x0, x1, ")
    assert wide.describe_encoding().endswith(" and 488 more")


def test_the_card_of_a_trained_net_says_the_width_and_that_of_another_does_not() -> None:
    manifest = Manifest.model_construct(
        name="flowers", summary="", task="tabular-classification", intended_use="", inputs=(), outputs=(),
        output_schema=None, input_schema=SCHEMA, tolerance=0.05, metrics={}, per_class_metrics={}, dataset=None,
        training={}, versions={}, created=datetime(2026, 1, 1), git_commit=None,
        recipe={"name": "flowers"},
    )  # fmt: skip

    assert "- encoded for the net: 4 numbers a row: length, color (3 categories)" in render_card(manifest)
    assert "encoded for the net" not in render_card(manifest.model_copy(update={"recipe": None}))
