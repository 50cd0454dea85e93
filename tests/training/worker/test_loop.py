"""The recipe's options of a run, by real workers over gloo: what each promises of weights, losses and the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.worker import local_workers
from tests.training.worker.local_workers import Tower, WorkerResult, rings
from training.recipe.load import override_recipe
from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule


def make_recipe(*overrides: str, **net_args: Any) -> Recipe:
    recipe = Recipe(
        name="rings",
        task="tabular-classification",
        data=Data(source=rings),
        net=Net(source=Tower, args=net_args),
        optimizer=Optimizer(name="SGD", lr=0.1, args={"momentum": 0.9}),
        schedule=LrSchedule(name="constant"),
        stop=StopRule(epochs=2),
        batch_size=16,
    )
    return override_recipe(recipe, list(overrides))


def weight_distance(first: WorkerResult, second: WorkerResult) -> float:
    """Return the norm of the difference between two nets' weights."""
    assert first.weights.keys() == second.weights.keys()
    differences = [(first.weights[name] - second.weights[name]).flatten() for name in first.weights]
    return float(torch.cat(differences).norm())


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> WorkerResult:
    """Two workers, two epochs, no option."""
    first, second = local_workers.train(make_recipe(), tmp_path_factory.mktemp("default") / "run", profile=True)
    assert weight_distance(first, second) == 0
    return first


def test_three_workers_with_unequal_shares_train_as_one_does(tmp_path: Path, default: WorkerResult) -> None:
    # The 16 rows of a batch are divided into 6, 5 and 5.
    three = local_workers.train(make_recipe("workers=3"), tmp_path / "three")
    (one,) = local_workers.train(make_recipe("workers=1"), tmp_path / "one")

    assert one.losses[-1] < one.losses[0]
    for result in (*three, default):
        assert result.losses == pytest.approx(one.losses, rel=1e-4)
        assert weight_distance(result, one) < 1e-3


def test_gradient_accumulation_gives_the_weights_of_one_forward_pass(tmp_path: Path, default: WorkerResult) -> None:
    result, _ = local_workers.train(make_recipe("gradient_accumulation=3"), tmp_path / "run", profile=True)

    assert weight_distance(result, default) < 1e-4
    # Gradients are sent once per step, however many passes there are.
    assert result.all_reduce_bytes == default.all_reduce_bytes


def test_the_phases_of_a_profile_add_up_and_it_counts_the_bytes_of_gradients(tmp_path: Path) -> None:
    two, _ = local_workers.train(make_recipe(width=256), tmp_path / "two", profile=True)
    (one,) = local_workers.train(make_recipe("workers=1"), tmp_path / "one", profile=True)

    statistics = ("mean", "std")
    parameters = sum(t.numel() for name, t in two.weights.items() if not name.endswith(statistics))
    assert two.all_reduce_bytes == two.steps * 4 * parameters
    assert two.steps == two.progress.global_step
    phases = sum(seconds for phase, seconds in two.seconds.items() if phase not in ("all", "all-reduce"))
    assert 0.8 * two.seconds["all"] < phases <= two.seconds["all"]
    assert 0 < two.seconds["all-reduce"] < two.seconds["backward"]
    assert one.all_reduce_bytes == 0
    assert "all-reduce" not in one.seconds


def test_a_sharded_net_trains_and_is_evaluated_as_a_replicated_one(tmp_path: Path, default: WorkerResult) -> None:
    sharded = local_workers.train(make_recipe("parallel=fsdp"), tmp_path / "run")

    for result in sharded:
        assert result.shard_fraction == pytest.approx(0.5, abs=0.02)
        assert result.losses == pytest.approx(default.losses, rel=1e-4)
        assert result.scores == default.scores
        assert weight_distance(result, default) < 1e-4


def test_workers_of_a_sharded_net_evaluate_unequal_numbers_of_batches(tmp_path: Path) -> None:
    # 1120 validation rows are three batches, of which the second worker has one.
    overrides = ("data.args.count=14000", "batch_size=1120", "stop.epochs=1")

    sharded, _ = local_workers.train(make_recipe(*overrides, "parallel=fsdp"), tmp_path / "sharded")
    replicated, _ = local_workers.train(make_recipe(*overrides), tmp_path / "replicated")

    assert sharded.scores == replicated.scores


@pytest.mark.parametrize(
    ("parallel", "workers"),
    [
        ("fsdp", 3),
        ("ddp", 2),
        pytest.param("fsdp", 2, marks=pytest.mark.soak),
        pytest.param("ddp", 3, marks=pytest.mark.soak),
    ],
)
def test_a_sharded_nets_checkpoint_opens_with_any_number_of_workers(
    tmp_path: Path, sharded_run: tuple[Path, list[float]], parallel: str, workers: int
) -> None:
    checkpoint, losses = sharded_run

    recipe = adamw_recipe(f"parallel={parallel}", f"workers={workers}")
    resumed = local_workers.train(recipe, tmp_path / "run", last_checkpoint=checkpoint)

    for result in resumed:
        assert result.losses == pytest.approx(losses, rel=1e-4)


def adamw_recipe(*overrides: str) -> Recipe:
    return make_recipe("optimizer.name=AdamW", "optimizer.lr=0.01", "optimizer.args={}", *overrides)


@pytest.fixture(scope="module")
def sharded_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The checkpoint after the first of two epochs of a sharded net, and the losses of both."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    result, _ = local_workers.train(adamw_recipe("parallel=fsdp"), folder)
    return folder / "run" / "0", result.losses


def test_a_run_that_is_resumed_within_an_epoch_ends_with_the_same_weights(tmp_path: Path) -> None:
    # All options that have state or draw; a checkpoint at each sync, and the first sync is after the first step.
    overrides = ("ema_decay=0.9", "checkpoints.interval_s=0.000001", "optimizer.name=AdamW", "optimizer.args={}")
    recipe = make_recipe(*overrides, dropout=0.3)

    uninterrupted, _ = local_workers.train(recipe, tmp_path / "uninterrupted")
    first = tmp_path / "uninterrupted" / "run" / "0"
    resumed, _ = local_workers.train(recipe, tmp_path / "resumed", last_checkpoint=first)

    assert json.loads((first / "state.json").read_text())["progress"]["global_step"] == 1
    assert weight_distance(resumed, uninterrupted) == 0
    assert resumed.losses == uninterrupted.losses
    assert resumed.scores == uninterrupted.scores


def test_bf16_trains_close_to_fp32_and_keeps_its_weights_in_fp32(tmp_path: Path, default: WorkerResult) -> None:
    result, _ = local_workers.train(make_recipe("precision=bf16"), tmp_path / "run")

    assert result.losses != default.losses
    assert result.losses == pytest.approx(default.losses, rel=0.05)
    assert {t.dtype for t in result.weights.values()} == {torch.float32}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_clipped_gradient_moves_the_weights_no_further(tmp_path: Path, parallel: str) -> None:
    # One step of plain SGD at a rate of 1 moves the weights by the clipped gradient itself.
    overrides = ("stop.steps=1", "optimizer.lr=1", "optimizer.args={}", f"parallel={parallel}")

    start, _ = local_workers.train(make_recipe(*overrides, "clip_grad_norm=1e-12"), tmp_path / "start")
    moved, _ = local_workers.train(make_recipe(*overrides, "clip_grad_norm=0.01"), tmp_path / "moved")

    assert weight_distance(moved, start) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.soak
def test_a_compiled_net_trains_as_an_eager_one(tmp_path: Path) -> None:
    overrides = ("gradient_accumulation=2", "stop.steps=8")

    recipe = make_recipe(*overrides, "compile=true", depth=1)
    compiled, _ = local_workers.train(recipe, tmp_path / "compiled", profile=True)
    eager, _ = local_workers.train(make_recipe(*overrides, depth=1), tmp_path / "eager", profile=True)

    assert compiled.losses == pytest.approx(eager.losses, rel=1e-3)
    assert compiled.all_reduce_bytes == eager.all_reduce_bytes
    assert list((tmp_path / "compiled" / "compiled").rglob("*.cpp"))


STOP_RULES = {
    "steps": ("stop.steps=7",),
    "seconds": ("stop.seconds=0.3",),
    "loss": ("stop.loss=0.5",),
    "score": ("stop.score=0.8",),
    "patience": ("stop.patience=3", "optimizer.lr=1e-9"),
    "epochs": ("stop.epochs=1",),
}


@pytest.mark.parametrize("rule", STOP_RULES)
def test_a_run_ends_by_each_stop_rule_of_its_recipe(tmp_path: Path, rule: str) -> None:
    overrides = ("stop.epochs=100000", *STOP_RULES[rule])
    first, second = local_workers.train(make_recipe(*overrides), tmp_path / "run")

    progress = first.progress
    assert progress.stop_reason == rule
    assert second.progress.global_step == progress.global_step
    last, earlier = progress.history[-1], progress.history[:-1]
    if rule == "steps":
        assert progress.global_step == 7
    elif rule == "seconds":
        assert 0.3 <= progress.seconds < 1
    elif rule == "loss":
        assert last["loss"] <= 0.5 < min(epoch["loss"] for epoch in earlier)
    elif rule == "score":
        assert last["validation_accuracy"] >= 0.8 > max(epoch["validation_accuracy"] for epoch in earlier)
    elif rule == "patience":
        # An equal score is no improvement.
        assert len(set(first.scores)) == 1
        assert progress.epoch == 4
    else:
        assert progress.epoch == 1


def test_a_run_reports_its_progress(default: WorkerResult) -> None:
    loading, started, *messages = default.messages

    assert loading == {"kind": "loading", "node_id": "", "pid": started["pid"]}
    assert started.pop("pid") > 1
    assert started == {"kind": "started", "epoch": 0, "step": 0, "world_size": 2, "node_id": ""}
    assert {message["kind"] for message in messages} == {"progress"}
    assert messages[0]["step"] == 1
    assert messages[-1]["step"] == messages[-1]["steps"] == default.progress.global_step
    assert all(message["rows_per_s"] > 0 and message["loss"] > 0 for message in messages)
