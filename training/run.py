"""The driver of one training run: rehearse, train on the cluster, publish.

Train walk: cluster.cli train -> [run.py] -> data.py -> prepare.py -> worker.py -> loop.py -> conclude.py -> bundle.py
-> registry.py
Needs a Ray that is already connected; knows nothing of how the cluster came up.
"""

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.util.queue import Queue

from training import loop, messages, store, tasks
from training.errors import Failure, Mistake, ShoalError
from training.options import Options
from training.recipe import Recipe, load_path
from training.registry import Registry, Version
from training.rehearsal import rehearse
from training.runs import Run
from training.settings import TrainingSettings

# A worker that dies (node lost, out of memory) is replaced so many times. A mistake or a loss that explodes would come
# again: it ends the run at once.
MAX_FAILURES = 3
# How long an elastic run waits between looks at the cluster.
RESIZE_S = 10.0
POLL_S = 0.2
WAITING_S = 15.0

OnMessage = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: the published version, its held-out scores, and all that it reported last."""

    version: Version
    metrics: dict[str, float]
    reported: dict[str, float]


class _Forward(UserCallback):
    """In Ray Train's controller: passes rank 0's reports on, and ends a run that trying again cannot mend."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        self._queue.put({"kind": "report", "rank": 0, "at_s": time.time(), "metrics": metrics[0]})

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        for rank, raised in sorted(worker_exceptions.items()):
            error = getattr(raised, "_base_exc", raised)
            if isinstance(error, ShoalError):
                raise error
            self._queue.put({"kind": "died", "rank": rank, "at_s": time.time(), "why": _first_line(error)})


def train(
    recipe: Recipe,
    settings: TrainingSettings,
    *,
    options: Options | None = None,
    resume: Run | None = None,
    origin: str = "",
    on_message: OnMessage = lambda message: None,
) -> Outcome:
    """Run a recipe on the connected cluster and publish its bundle.

    Args:
        recipe: what to train.
        settings: where runs and bundles are kept.
        options: how to run it.
        resume: an earlier run of this recipe, which goes on from its last checkpoint.
        origin: how the recipe was named, so that a resumed run finds it again.
        on_message: called in this thread with what workers tell: started, beat, report, died, waiting.

    Raises:
        Mistake: the recipe cannot run.
        Failure: the run ended without a bundle.
    """
    rehearse(recipe)
    options = options or Options()
    scaling = _scaling(recipe, options)
    registry = Registry(settings)
    name, run_id = _opened(registry, recipe, scaling, resume, origin)
    queue = messages.inbox()
    config = {
        "recipe": recipe.model_dump(mode="json"),
        "run": name,
        "git_commit": git_commit(recipe),
        "profile": options.profile,
        "country": settings.country,
        "messages": queue,
    }
    trainer = _trainer(recipe, config, scaling, registry.run_storage, queue)

    def note(message: dict[str, Any]) -> None:
        if message["kind"] == "report" and "epoch" in message["metrics"] and "step" not in message["metrics"]:
            registry.log_metrics(run_id, _numbers(message["metrics"]), step=int(message["metrics"]["epoch"]))
        on_message(message)

    try:
        result = _fit(trainer, queue, note)
        if result.checkpoint is None or result.metrics is None:
            raise Failure(f"run {name} ended without a checkpoint; its record is in the registry as {run_id}")
        with result.checkpoint.as_directory() as folder:
            version = registry.publish(Path(folder) / "bundle", run_id)
    except BaseException as error:
        registry.end_run(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    registry.end_run(run_id, "FINISHED")
    store.delete(f"{registry.run_storage}/{name}")
    numbers = _numbers(result.metrics)
    return Outcome(version, {k: v for k, v in numbers.items() if k.startswith("test_")}, numbers)


def _opened(
    registry: Registry, recipe: Recipe, scaling: ScalingConfig, resume: Run | None, origin: str
) -> tuple[str, str]:
    """Note a new run, or an old one again; returns its name and id."""
    if resume:
        registry.reopen_run(resume.run_id)
        return resume.name, resume.run_id
    name = f"{recipe.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    plain = recipe.model_dump(mode="json")
    params = _flat(plain) | {"workers": scaling.num_workers}
    return name, registry.start_run(name, params, recipe=plain, origin=origin)


def _scaling(recipe: Recipe, options: Options) -> ScalingConfig:
    """How many workers, on what: one per GPU where there are any, else the recipe's number on CPUs."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    low, high = options.workers.bounds if options.workers else (gpus or recipe.workers,) * 2
    if recipe.batch_rows < high * recipe.accumulate:
        raise Mistake(f"batch_rows={recipe.batch_rows} leaves {high} workers without a row; raise it or take fewer")
    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=options.gpus or gpus > 0,
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


def _trainer(
    recipe: Recipe, config: dict[str, Any], scaling: ScalingConfig, storage: str, queue: Queue
) -> TorchTrainer:
    task = tasks.kind_of(recipe)
    return TorchTrainer(
        loop.train_worker,
        train_loop_config=config,
        scaling_config=scaling,
        run_config=RunConfig(  # type: ignore[arg-type]
            name=config["run"],
            storage_path=storage,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(
                num_to_keep=recipe.checkpoints.keep,
                checkpoint_score_attribute=f"validation_{task.metric}",
                checkpoint_score_order="max" if task.higher else "min",
            ),
            callbacks=[_Forward(queue)],
        ),
    )


def _fit(trainer: TorchTrainer, queue: Queue, note: OnMessage) -> ray.train.Result:
    """Train in a thread of its own, so that this one can show progress and be interrupted."""
    results: list[ray.train.Result] = []
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            results.append(trainer.fit())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    heard_s = time.monotonic()
    started = False
    while thread.is_alive():
        thread.join(POLL_S)
        for message in messages.drained(queue):
            started, heard_s = True, time.monotonic()
            note(message)
        if not started and time.monotonic() - heard_s > WAITING_S:
            heard_s = time.monotonic()
            note({"kind": "waiting", "rank": 0, "at_s": time.time(), "free": ray.available_resources()})
    for message in messages.drained(queue):
        note(message)
    if errors:
        cause = _root_cause(errors[0])
        if isinstance(cause, ShoalError):
            raise Failure(f"training failed: {cause}") from errors[0]
        name = trainer.run_config.name
        raise Failure(
            f"training failed: {type(cause).__name__}: {_first_line(cause)}; "
            f"go on from its last checkpoint with `shoal train --resume {name}`"
        ) from errors[0]
    return results[0]


def _root_cause(error: BaseException) -> BaseException:
    """Find what a worker said, under the layers that Ray wraps around it."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    while True:
        inner = (
            getattr(error, "controller_failure", None)
            or getattr(error, "_base_exc", None)
            or getattr(error, "cause", None)
            or error.__cause__
        )
        if not isinstance(inner, BaseException) or isinstance(error, ShoalError):
            return error
        error = inner


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def git_commit(recipe: Recipe) -> str | None:
    """The commit of the code that the recipe's net comes from; None outside a checkout."""
    module = load_path(recipe.net.source).__module__
    file = getattr(__import__(module, fromlist=["_"]), "__file__", None)
    if not file:
        return None
    command = ["git", "-C", str(Path(file).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
