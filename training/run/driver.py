"""Driver: runs one recipe on the connected cluster, from preflight to publication.

Train walk: cluster.train -> [driver.py] -> preflight.py, ray_train.py, training.worker.loop
Needs a Ray that is connected; knows nothing of how the cluster was started.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train

from training.data.files.scan import FileScan, scan_files
from training.errors import ServiceError
from training.provenance.keys import ensure_signing_key
from training.recipe.load import import_path
from training.recipe.spec import Files, Recipe
from training.registry import storage
from training.registry.entities import Run, Version
from training.registry.model_registry import AlreadyPublished, Registry
from training.run.last_checkpoint import find_last_checkpoint
from training.run.last_words import LastWords
from training.run.options import RunOptions, WorkerCount
from training.run.pending_resources import PlacementWatch
from training.run.preflight import run_preflight
from training.run.ray_train import Fit, OnMessage, TrainLoop, build_trainer, plan_workers
from training.run.run_record import RunRecord, make_run_name, select_numbers
from training.schema import InputSchema, TableInput
from training.settings import TrainingSettings
from training.worker.error_classification import resume_hint
from training.worker.finalize import BUNDLE_FOLDER
from training.worker.loop import train_worker
from training.worker.progress_channel import Message, open_channel
from training.worker.ray_internals import silence_worker_deaths

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class FinishedRun:
    """What training left, while the run's record is still open.

    Attributes:
        registry: where the run is recorded.
        run_id: MLflow's.
        name: of the run.
        bundle: local folder of the bundle that the workers wrote; it is deleted when `on_finished` returns.
        report: all numbers of the workers' last report.
    """

    registry: Registry
    run_id: str
    name: str
    bundle: Path
    report: dict[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on the test split."""
        return {name: value for name, value in self.report.items() if name.startswith("test_")}


@dataclass(frozen=True)
class RunResult:
    """A published run: its version, its metrics on the test split, and all numbers of its last report."""

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
    """Train a recipe and publish its bundle; arguments and errors are those of `run_training`."""
    # A key that cannot be read is told now, and not when hours of work are to be signed.
    ensure_signing_key(settings.home)
    return run_training(
        recipe, settings, publish_bundle, options=options, resume=resume, origin=origin, on_message=on_message
    )


def run_training(
    recipe: Recipe,
    settings: TrainingSettings,
    on_finished: Callable[[FinishedRun], Outcome],
    *,
    options: RunOptions | None = None,
    resume: Run | None = None,
    origin: str = "",
    on_message: OnMessage = lambda message: None,
    train_loop: TrainLoop = train_worker,
) -> Outcome:
    """Train a recipe on the connected cluster, and end the run as the caller decides.

    Args:
        recipe: what to train.
        settings: where runs and bundles are stored.
        on_finished: ends a run that has trained, as `publish_bundle` does; its checkpoints are deleted afterwards.
        options: how to run it.
        resume: an earlier run of this recipe, to resume from its last checkpoint.
        origin: how the recipe was named, so that a resumed run finds it again.
        on_message: called in this thread with every message of `training.worker.progress_channel`.
        train_loop: what each worker runs.

    Returns:
        What `on_finished` returned.

    Raises:
        UserError: the recipe cannot run.
        ServiceError: the run failed.
    """
    options = options or RunOptions()
    scan = _scan_files(recipe, on_message)
    plan = plan_workers(recipe, options, WorkerCount(bounds=resume.params["workers"]) if resume else None)
    _report_preflight(run_preflight(recipe, scan, plan.workers.bounds[1]), on_message)
    registry = Registry(settings)
    name = resume.name if resume else make_run_name(recipe)
    silence_worker_deaths()
    with open_channel(name) as channel:
        last_checkpoint = find_last_checkpoint(registry.run_storage, name) if resume else None
        config = _worker_config(recipe, settings, options, scan)
        config |= {"run": name, "channel": channel, "last_checkpoint": last_checkpoint}
        fit = Fit(build_trainer(train_loop, config, recipe, plan, registry.run_storage, scan))
        # Here, while Ray starts the workers: MLflow's import takes two seconds.
        if resume:
            record = RunRecord.reopen(registry, resume)
        else:
            record = RunRecord.start(registry, name, recipe, plan.workers, origin)
        with record.close(), _report_interruption(name, on_message):
            last_words = LastWords()

            def relay(message: Message) -> None:
                record.log(message)
                on_message(last_words.observe(message))

            placement = PlacementWatch(min_workers=plan.workers.bounds[0], use_gpu=plan.use_gpu)
            with last_words.explain_failure():
                result = fit.wait(channel, placement, relay)
            with _open_finished(record, name, result) as finished:
                outcome = on_finished(finished)
    storage.delete_folder(f"{registry.run_storage}/{name}")
    return outcome


def publish_bundle(finished: FinishedRun) -> RunResult:
    """End a run by publishing its bundle.

    Raises:
        ServiceError: the bundle cannot be stored.
    """
    try:
        version = finished.registry.publish(finished.bundle, finished.run_id)
    except AlreadyPublished as error:  # a driver that died after it had published
        version = error.version
    except OSError as error:
        raise ServiceError(
            f"the bundle cannot be stored: {error}; free some space or repair the store, then "
            f"{resume_hint(finished.name)}"
        ) from error
    return RunResult(version, finished.metrics, finished.report)


@contextmanager
def _open_finished(record: RunRecord, name: str, result: ray.train.Result) -> Iterator[FinishedRun]:
    """Bring the last checkpoint, which holds the bundle, to this machine for the length of the block."""
    if result.checkpoint is None or result.metrics is None:
        raise ServiceError(f"run {name} ended without a checkpoint; its record in the registry is {record.run_id}")
    with result.checkpoint.as_directory() as folder:
        bundle = Path(folder) / BUNDLE_FOLDER
        yield FinishedRun(record.registry, record.run_id, name, bundle, select_numbers(result.metrics))


@contextmanager
def _report_interruption(name: str, on_message: OnMessage) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        on_message({"kind": "interrupted", "rank": 0, "at_s": time.time(), "run": name})
        raise


def _scan_files(recipe: Recipe, on_message: OnMessage) -> FileScan | None:
    """Scan the recipe's files; None where its data is not files."""
    if not isinstance(recipe.data, Files):
        return None

    def on_rows(rows: int, done: bool = False) -> None:
        on_message({"kind": "scanning", "rank": 0, "at_s": time.time(), "rows": rows, "done": done})

    scan = scan_files(recipe, recipe.data, on_rows)
    on_rows(sum(scan.row_counts.values()), done=True)
    for warning in scan.warnings:
        on_message({"kind": "data_warning", "rank": 0, "at_s": time.time(), "text": warning})
    return scan


def _report_preflight(schema: InputSchema, on_message: OnMessage) -> None:
    """Say what the net gets for each row of a table, since encoding changes its width."""
    net_input = schema.describe_encoding() if isinstance(schema, TableInput) else ""
    on_message({"kind": "preflight_passed", "rank": 0, "at_s": time.time(), "net_input": net_input})


def _worker_config(
    recipe: Recipe, settings: TrainingSettings, options: RunOptions, scan: FileScan | None
) -> dict[str, Any]:
    """The part of `train_worker`'s config that is known before the run has a name."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "git_commit": find_git_commit(recipe),
        "profile": options.profile,
        "country": settings.country,
        # Stored once in the object store, however many workers there are.
        "scan": ray.put(scan) if scan else None,
    }


def find_git_commit(recipe: Recipe) -> str | None:
    """The git commit of the net's code; None outside a checkout, or without git."""
    file = getattr(sys.modules[import_path(recipe.net.source).__module__], "__file__", None)
    if not file:
        return None
    command = ["git", "-C", str(Path(file).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None
