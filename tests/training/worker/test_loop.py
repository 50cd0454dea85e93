"""The loop's options, by real workers over gloo: what each of them promises of the weights, the losses and the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.worker import local_workers
from tests.training.worker.local_workers import Tower, rings
from training.recipe.load import override_recipe
from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule


def recipe(*settings: str, **tower: Any) -> Recipe:
    plain = Recipe(
        name="rings",
        task="tabular-classification",
        data=Data(source=rings),
        net=Net(source=Tower, args=tower),
        optimizer=Optimizer(name="SGD", lr=0.1, args={"momentum": 0.9}),
        schedule=LrSchedule(name="constant"),
        stop=StopRule(epochs=2),
        batch_size=16,
    )
    return override_recipe(plain, list(settings))


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of the difference between two nets' weights."""
    assert one.keys() == other.keys()
    return torch.cat([(one[name] - other[name]).flatten() for name in one]).norm().item()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> local_workers.Ran:
    """Two workers, two epochs, nothing else."""
    ran, other = local_workers.train(recipe(), tmp_path_factory.mktemp("plain") / "run", profile=True)
    assert distance(ran.weights, other.weights) == 0
    return ran


def test_three_workers_with_unequal_shares_train_as_one_does(tmp_path: Path, plain: local_workers.Ran) -> None:
    # 16 rows of a step are 6, 5 and 5.
    three = local_workers.train(recipe("workers=3"), tmp_path / "three")
    (one,) = local_workers.train(recipe("workers=1"), tmp_path / "one")

    assert one.losses[-1] < one.losses[0]
    for ran in (*three, plain):
        assert ran.losses == pytest.approx(one.losses, rel=1e-4)
        assert distance(ran.weights, one.weights) < 1e-3


def test_forward_passes_that_are_put_together_give_the_weights_of_one(tmp_path: Path, plain: local_workers.Ran) -> None:
    ran, _ = local_workers.train(recipe("accumulate=3"), tmp_path / "run", profile=True)

    assert distance(ran.weights, plain.weights) < 1e-4
    # Gradients are sent once a step, however many passes made them.
    assert ran.bytes == plain.bytes


def test_a_profile_adds_up_and_counts_the_gradients_bytes(tmp_path: Path) -> None:
    two, _ = local_workers.train(recipe(width=256), tmp_path / "two", profile=True)
    (one,) = local_workers.train(recipe("workers=1"), tmp_path / "one", profile=True)

    weights = sum(weight.numel() for name, weight in two.weights.items() if "mean" not in name)
    weights -= sum(weight.numel() for name, weight in two.weights.items() if "deviation" in name)
    assert two.bytes == two.steps * 4 * weights
    assert two.steps == two.progress.global_step
    parts = sum(seconds for name, seconds in two.seconds.items() if name not in ("all", "all-reduce"))
    assert 0.8 * two.seconds["all"] < parts <= two.seconds["all"]
    assert 0 < two.seconds["all-reduce"] < two.seconds["backward"]
    assert one.bytes == 0
    assert "all-reduce" not in one.seconds


def test_a_sharded_net_trains_and_is_judged_as_a_copied_one(tmp_path: Path, plain: local_workers.Ran) -> None:
    sharded = local_workers.train(recipe("parallel=fsdp"), tmp_path / "run")

    for ran in sharded:
        assert ran.held == pytest.approx(0.5, abs=0.02)
        assert ran.losses == pytest.approx(plain.losses, rel=1e-4)
        assert ran.scores == plain.scores
        assert distance(ran.weights, plain.weights) < 1e-4


def test_workers_of_a_sharded_net_judge_unequal_numbers_of_batches(tmp_path: Path) -> None:
    # 1120 validation rows are three batches, of which the second worker has one.
    settings = ("data.args.count=14000", "batch_rows=1120", "stop.epochs=1")

    sharded, _ = local_workers.train(recipe(*settings, "parallel=fsdp"), tmp_path / "sharded")
    copied, _ = local_workers.train(recipe(*settings), tmp_path / "copied")

    assert sharded.scores == copied.scores


@pytest.mark.parametrize(
    ("parallel", "workers"),
    [
        ("fsdp", 3),
        ("ddp", 2),
        pytest.param("fsdp", 2, marks=pytest.mark.soak),
        pytest.param("ddp", 3, marks=pytest.mark.soak),
    ],
)
def test_a_sharded_nets_checkpoint_opens_with_any_workers(
    tmp_path: Path, sharded_half: tuple[Path, list[float]], parallel: str, workers: int
) -> None:
    last, losses = sharded_half

    resumed = local_workers.train(halved(f"parallel={parallel}", f"workers={workers}"), tmp_path / "run", last=last)

    for ran in resumed:
        assert ran.losses == pytest.approx(losses, rel=1e-4)


def halved(*settings: str) -> Recipe:
    return recipe("optimiser.name=AdamW", "optimiser.lr=0.01", "optimiser.args={}", *settings)


@pytest.fixture(scope="module")
def sharded_half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The checkpoint after the first of two epochs of a sharded net, and the losses of both."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    whole, _ = local_workers.train(halved("parallel=fsdp"), folder)
    return folder / "run" / "0", whole.losses


def test_a_run_that_goes_on_inside_an_epoch_ends_with_the_same_weights(tmp_path: Path) -> None:
    # Everything that draws or remembers; a checkpoint at each beat, and the first beat is after the first step.
    settings = ("ema_decay=0.9", "checkpoints.every_s=0.000001", "optimiser.name=AdamW", "optimiser.args={}")
    own = recipe(*settings, dropout=0.3)

    whole, _ = local_workers.train(own, tmp_path / "whole")
    first = tmp_path / "whole" / "run" / "0"
    resumed, _ = local_workers.train(own, tmp_path / "resumed", last=first)

    assert json.loads((first / "state.json").read_text())["progress"]["step"] == 1
    assert distance(resumed.weights, whole.weights) == 0
    assert resumed.losses == whole.losses
    assert resumed.scores == whole.scores


def test_bf16_trains_close_to_fp32_and_keeps_its_weights_in_fp32(tmp_path: Path, plain: local_workers.Ran) -> None:
    ran, _ = local_workers.train(recipe("precision=bf16"), tmp_path / "run")

    assert ran.losses != plain.losses
    assert ran.losses == pytest.approx(plain.losses, rel=0.05)
    assert {weight.dtype for weight in ran.weights.values()} == {torch.float32}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_clipped_gradient_moves_the_weights_no_further(tmp_path: Path, parallel: str) -> None:
    # One step of plain descent at rate 1 moves the weights by the clipped gradient itself.
    step = ("stop.steps=1", "optimiser.lr=1", "optimiser.args={}", f"parallel={parallel}")

    start, _ = local_workers.train(recipe(*step, "clip=1e-12"), tmp_path / "start")
    moved, _ = local_workers.train(recipe(*step, "clip=0.01"), tmp_path / "moved")

    assert distance(moved.weights, start.weights) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.soak
def test_a_compiled_net_trains_as_it_is_written(tmp_path: Path) -> None:
    settings = ("accumulate=2", "stop.steps=8")

    compiled, _ = local_workers.train(recipe(*settings, "compile=true", depth=1), tmp_path / "compiled", profile=True)
    written, _ = local_workers.train(recipe(*settings, depth=1), tmp_path / "written", profile=True)

    assert compiled.losses == pytest.approx(written.losses, rel=1e-3)
    assert compiled.bytes == written.bytes
    assert list((tmp_path / "compiled" / "compiled").rglob("*.cpp"))


STOPS = {
    "steps": ("stop.steps=7",),
    "seconds": ("stop.seconds=0.3",),
    "loss": ("stop.loss=0.5",),
    "score": ("stop.score=0.8",),
    "patience": ("stop.patience=3", "optimiser.lr=1e-9"),
    "epochs": ("stop.epochs=1",),
}


@pytest.mark.parametrize("why", STOPS)
def test_a_run_ends_when_its_recipe_says(tmp_path: Path, why: str) -> None:
    one, other = local_workers.train(recipe("stop.epochs=100000", *STOPS[why]), tmp_path / "run")

    progress = one.progress
    assert progress.stop_reason == why
    assert other.progress.global_step == progress.global_step
    last, before = one.progress.history[-1], one.progress.history[:-1]
    if why == "steps":
        assert progress.global_step == 7
    elif why == "seconds":
        assert 0.3 <= progress.seconds < 1
    elif why == "loss":
        assert last["loss"] <= 0.5 < min(epoch["loss"] for epoch in before)
    elif why == "score":
        assert last["validation_accuracy"] >= 0.8 > max(epoch["validation_accuracy"] for epoch in before)
    elif why == "patience":
        # A score that stays is no better.
        assert len(set(one.scores)) == 1
        assert progress.epoch == 4
    else:
        assert progress.epoch == 1


def test_a_run_tells_where_it_is(plain: local_workers.Ran) -> None:
    started, *beats = plain.told

    assert started == {"kind": "started", "epoch": 0, "step": 0, "world": 2}
    assert beats[0]["step"] == 1
    assert beats[-1]["step"] == beats[-1]["steps"] == plain.progress.global_step
    assert all(beat["rows_per_s"] > 0 and beat["loss"] > 0 for beat in beats)
