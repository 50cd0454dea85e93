"""The end of a run: the default writes a bundle, and another ending takes its place without a change to the loop."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.training.worker.local_workers import Tower, full_tensor, make_config, rings, start_workers
from tests.training.worker.ray_local_mode import RUN
from training.bundle.load import load_bundle
from training.recipe.load import override_recipe
from training.recipe.spec import Data, Net, Optimizer, Recipe, StopRule
from training.worker.energy import EnergyMeter
from training.worker.finalize import finalize_run
from training.worker.training_worker import Worker


class SharedLayers(nn.Module):
    """One layer under two names, which is what torch's own state dicts treat in another way."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_features, 16)
        self.second = self.third = nn.Linear(16, 16)
        self.last = nn.Linear(16, num_classes)

    def forward(self, x_BF: Tensor) -> Tensor:
        y_BC: Tensor = self.last(self.third(self.second(self.first(x_BF).relu()).relu()).relu())
        return y_BC


def make_recipe(*overrides: str) -> Recipe:
    recipe = Recipe(
        name="rings",
        task="tabular-classification",
        data=Data(source=rings),
        net=Net(source=Tower),
        optimizer=Optimizer(name="AdamW", lr=0.01),
        stop=StopRule(epochs=3),
        batch_size=16,
    )
    return override_recipe(recipe, list(overrides))


VARIANTS = pytest.mark.parametrize(
    "overrides",
    [("ema_decay=0.9",), ("parallel=fsdp",), (f"net.source={SharedLayers.__module__}:SharedLayers",)],
    ids=["average", "sharded", "shared-layers"],
)


@VARIANTS
def test_a_run_ends_with_the_bundle_of_its_best_weights_and_a_checkpoint(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    config = make_config(make_recipe(*overrides))

    start_workers(config, tmp_path / "run", finalize=finalize_run)

    last = max((tmp_path / "run" / RUN).glob("[0-9]*"), key=lambda folder: int(folder.name))
    assert sorted(path.name for path in last.iterdir()) == ["bundle", "state.json", "state.safetensors"]
    manifest = json.loads((last / "bundle" / "bundle.json").read_text())
    assert manifest["training"]["workers"] == 2
    assert manifest["training"]["stopped_by"] == "epochs"
    history = json.loads((last / "state.json").read_text())["progress"]["history"]
    best = history[manifest["training"]["best_epoch"] - 1]
    assert best["validation_accuracy"] == max(epoch["validation_accuracy"] for epoch in history)
    net = load_bundle(last / "bundle").net
    assert net(torch.zeros(2, 4)).shape == (2, 2)


def save_best_weights(folder: Path, worker: Worker, config: Mapping[str, Any], _: EnergyMeter) -> None:
    # As if more epochs had followed the best one.
    for parameter in worker.eval_net.parameters():
        nn.init.zeros_(parameter)
    worker.load_best()
    loaded = {name: full_tensor(tensor).clone() for name, tensor in worker.eval_net.state_dict().items()}
    save_file(loaded, folder / f"{worker.rank}.safetensors")
    if worker.rank == 0:
        save_file(worker.best_weights, folder / "best.safetensors")


@VARIANTS
def test_every_worker_ends_with_the_best_weights(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = make_config(make_recipe("stop.epochs=1", *overrides))

    start_workers(config, tmp_path / "run", finalize=partial(save_best_weights, tmp_path))

    best, *loaded = (load_file(tmp_path / f"{name}.safetensors") for name in ("best", 0, 1))
    for weights in loaded:
        assert weights.keys() == best.keys()
        assert all(torch.equal(tensor, best[name]) for name, tensor in weights.items())


def save_score(folder: Path, worker: Worker, config: Mapping[str, Any], _: EnergyMeter) -> None:
    """What a trial of a hyperparameter search leaves: its best validation score, and no bundle."""
    (folder / f"score-{worker.rank}").write_text(f"{config['run']} {worker.progress.best_score}")


def test_another_ending_takes_the_place_of_the_bundle(tmp_path: Path) -> None:
    config = make_config(make_recipe("stop.epochs=1"))

    start_workers(config, tmp_path / "run", finalize=partial(save_score, tmp_path))

    first, second = (tmp_path / f"score-{rank}" for rank in range(2))
    assert first.read_text() == second.read_text()
    assert first.read_text().startswith(f"{RUN} 0.")
    assert not list((tmp_path / "run").rglob("bundle"))
