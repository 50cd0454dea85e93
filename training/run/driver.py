"""The driver of one training run: rehearse, train on the cluster, publish.

Train walk: cluster.cli.app train -> [run.py] -> files/scan.py (for files), rehearsal.py -> on each worker loop.py ->
evaluation/conclude.py -> registry.py; recovery/ for what dies meanwhile
Needs a Ray that is already connected; knows nothing of how the cluster came up.
"""

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.util.queue import Queue

from training.data.files import scan
from training.data.files.scan import FileScan
from training.errors import ServiceError, ShoalError, UserError
from training.recipe.load import import_path
from training.recipe.spec import Files, Recipe
from training.registry import storage
from training.registry.model_registry import Registry, Version
from training.registry.runs import Run
from training.run import last_checkpoint
from training.run.failure_policy import FailurePolicy
from training.run.options import RunOptions, WorkerCount
from training.run.placement import PlacementWatch
from training.run.preflight import run_preflight
from training.settings import TrainingSettings
from training.worker import checkpoint, loop, progress_channel
from training.worker.failures import first_line, resume_hint, root_cause

# How long an elastic run waits between looks at the cluster.
RESIZE_INTERVAL_S = 10.0
POLL_S = 0.2

OnMessage = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves: the published version, its held-out scores, and all that it reported last."""

    version: Version
    metrics: dict[str, float]
    final_report: dict[str, float]


def train(
    recipe: Recipe,
    settings: TrainingSettings,
    *,
    options: RunOptions | None = None,
    resume: Run | None = None,
    origin: str = "",
    on_message: OnMessage = lambda message: None,
) -> RunResult:
    """Run a recipe on the connected cluster and publish its bundle.

    Args:
        recipe: what to train.
        settings: where runs and bundles are kept.
        options: how to run it.
        resume: an earlier run of this recipe, which goes on from its last checkpoint.
        origin: how the recipe was named, so that a resumed run finds it again.
        on_message: called in this thread with what there is to tell: reading, started, beat, notice, report, died,
            waiting, interrupted.

    Raises:
        Mistake: the recipe cannot run.
        Failure: the run ended without a bundle.
    """
    surveyed = _scan_files(recipe, on_message)
    run_preflight(recipe, surveyed)
    options = options or RunOptions()
    scaling = _scaling_config(recipe, options, resume)
    registry = Registry(settings)
    name = resume.name if resume else _new_name(recipe)
    progress_channel.silence_worker_deaths()
    with progress_channel.open_channel(name) as queue:
        last = last_checkpoint.find_last_checkpoint(registry.run_storage, name) if resume else None
        run_id = _open_run(registry, name, recipe, scaling, resume, origin)
        config = _worker_config(recipe, settings, options, surveyed) | {"run": name, "messages": queue, "last": last}
        trainer = _build_trainer(recipe, config, scaling, registry.run_storage, surveyed)

        def note(message: dict[str, Any]) -> None:
            if message["kind"] == "report" and "epoch" in message["metrics"] and "step" not in message["metrics"]:
                registry.log_metrics(
                    run_id, _numeric_metrics(message["metrics"]), step=int(message["metrics"]["epoch"])
                )
            on_message(message)

        with _record_end(registry, run_id, name, on_message):
            result = _fit(trainer, queue, PlacementWatch(scaling), note)
            if result.checkpoint is None or result.metrics is None:
                raise ServiceError(f"run {name} ended without a checkpoint; its record is in the registry as {run_id}")
            with result.checkpoint.as_directory() as folder:
                version = _publish(registry, Path(folder) / "bundle", run_id, name)
    storage.delete_folder(f"{registry.run_storage}/{name}")
    numbers = _numeric_metrics(result.metrics)
    return RunResult(version, {k: v for k, v in numbers.items() if k.startswith("test_")}, numbers)


def _new_name(recipe: Recipe) -> str:
    return f"{recipe.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def _open_run(
    registry: Registry, name: str, recipe: Recipe, scaling: ScalingConfig, resume: Run | None, origin: str
) -> str:
    """Note a new run, or an old one again; returns its id."""
    if resume:
        registry.reopen_run(resume.run_id)
        return resume.run_id
    plain = recipe.model_dump(mode="json")
    params = _flatten(plain) | {"workers": WorkerCount(bounds=(scaling.min_workers, scaling.max_workers))}
    return registry.start_run(name, params, recipe=plain, origin=origin)


def _scan_files(recipe: Recipe, on_message: OnMessage) -> FileScan | None:
    """Read files once, where the recipe's data is files."""
    if not isinstance(recipe.data, Files):
        return None

    def on_rows(rows: int, done: bool = False) -> None:
        on_message({"kind": "reading", "rank": 0, "at_s": time.time(), "rows": rows, "done": done})

    found = scan.scan_files(recipe, recipe.data, on_rows)
    on_rows(sum(found.rows.values()), done=True)
    return found


def _worker_config(
    recipe: Recipe, settings: TrainingSettings, options: RunOptions, surveyed: FileScan | None
) -> dict[str, Any]:
    """What workers are told, beside where they find each other."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "git_commit": find_git_commit(recipe),
        "profile": options.profile,
        "country": settings.country,
        # Once in the object store, however many workers there are.
        "survey": ray.put(surveyed) if surveyed else None,
    }


@contextmanager
def _record_end(registry: Registry, run_id: str, name: str, on_message: OnMessage) -> Iterator[None]:
    """Note how a run ends."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        registry.end_run(run_id, "KILLED")
        on_message({"kind": "interrupted", "rank": 0, "at_s": time.time(), "run": name})
        raise
    except BaseException:
        registry.end_run(run_id, "FAILED")
        raise
    registry.end_run(run_id, "FINISHED")


def _publish(registry: Registry, folder: Path, run_id: str, name: str) -> Version:
    try:
        return registry.publish(folder, run_id)
    except OSError as error:
        raise ServiceError(
            f"the bundle cannot be stored: {error}; make room or mend the store, then {resume_hint(name)}"
        ) from error


def _scaling_config(recipe: Recipe, options: RunOptions, resume: Run | None) -> ScalingConfig:
    """How many workers, on what: as many as a resumed run had, one per GPU where there are any, or the recipe's."""
    workers = options.workers or (WorkerCount(bounds=resume.params["workers"]) if resume else None)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    low, high = workers.bounds if workers else (gpus or recipe.workers,) * 2
    if recipe.batch_size < high * recipe.gradient_accumulation:
        raise UserError(f"batch_rows={recipe.batch_size} leaves {high} workers without a row; raise it or take fewer")
    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=options.gpus or gpus > 0,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )


def _build_trainer(
    recipe: Recipe, config: dict[str, Any], scaling: ScalingConfig, storage: str, surveyed: FileScan | None
) -> TorchTrainer:
    rows: Any = {"train": scan.stream_rows(surveyed, recipe.seed, scaling.max_workers)} if surveyed else None
    return TorchTrainer(
        loop.train_worker,
        train_loop_config=config,
        scaling_config=scaling,
        run_config=RunConfig(  # type: ignore[arg-type]
            name=config["run"],
            storage_path=storage,
            # Without end: Judge says when it is enough.
            failure_config=FailureConfig(max_failures=-1),
            checkpoint_config=CheckpointConfig(
                num_to_keep=recipe.checkpoints.num_to_keep,
                checkpoint_score_attribute=checkpoint.ORDERING_METRIC,
            ),
            callbacks=[FailurePolicy(config["messages"], config["run"])],
        ),
        datasets=rows,
    )


def _fit(trainer: TorchTrainer, queue: Queue, placement: PlacementWatch, note: OnMessage) -> ray.train.Result:
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
    ear = progress_channel.Receiver(queue)
    while thread.is_alive():
        for message in ear.receive(POLL_S):
            placement.observe(message)
            note(message)
        waiting = placement.waiting_message()
        if waiting:
            note(waiting)
    for message in ear.receive(POLL_S):
        note(message)
    if errors:
        cause = root_cause(errors[0])
        if isinstance(cause, ShoalError):
            raise ServiceError(f"training failed: {cause}") from errors[0]
        remedy = resume_hint(str(trainer.run_config.name))
        raise ServiceError(f"training failed: {type(cause).__name__}: {first_line(cause)}; {remedy}") from errors[0]
    return results[0]


def find_git_commit(recipe: Recipe) -> str | None:
    """The commit of the code that the recipe's net comes from; None outside a checkout."""
    module = import_path(recipe.net.source).__module__
    file = getattr(__import__(module, fromlist=["_"]), "__file__", None)
    if not file:
        return None
    command = ["git", "-C", str(Path(file).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def _numeric_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        k: value for k, value in metrics.items() if isinstance(value, int | float) and k != checkpoint.ORDERING_METRIC
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
