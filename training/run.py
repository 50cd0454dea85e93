"""The driver of one training run: rehearse, train on the cluster, publish.

Train walk: cluster.cli train -> [run.py] -> data.py -> loop.py -> bundle.py -> registry.py
Needs a Ray that is already connected; knows nothing of how the cluster came up.
"""

import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Empty, Queue

from training import bundle, data, loop, store
from training.errors import Failure, Mistake, ShoalError
from training.recipe import Recipe, load_path
from training.registry import Registry, Version
from training.settings import TrainingSettings

# A worker that dies (node lost, out of memory) is replaced so many times; a mistake in the recipe does not come so far,
# because the driver rehearses one step first.
MAX_FAILURES = 3

OnReport = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: the published version and its held-out scores."""

    version: Version
    metrics: dict[str, float]


class _Forward(UserCallback):
    """Carries rank 0's reports from Ray Train's controller process to the driver."""

    def __init__(self, reports: Queue) -> None:
        self._reports = reports

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        self._reports.put(metrics[0])


def train(
    recipe: Recipe,
    settings: TrainingSettings,
    *,
    workers: int | None = None,
    gpus: bool = False,
    on_report: OnReport = lambda metrics: None,
) -> Outcome:
    """Run a recipe on the connected cluster and publish its bundle.

    Args:
        recipe: what to train.
        settings: where runs and bundles are kept.
        workers: data-parallel workers; None for one per GPU where there are GPUs, else the recipe's number.
        gpus: give every worker a GPU even if the cluster has none yet (an autoscaled one then brings them).
        on_report: called in this thread with the metrics of each epoch, then with the held-out scores.

    Raises:
        Mistake: the recipe cannot run.
        Failure: the run ended without a bundle.
    """
    rehearse(recipe)
    gpu_count = int(ray.cluster_resources().get("GPU", 0))
    use_gpu = gpus or gpu_count > 0
    workers = workers or (gpu_count if gpu_count else recipe.workers)
    if recipe.batch_rows % workers:
        raise Mistake(f"batch_rows={recipe.batch_rows} does not divide over {workers} workers; change one of them")

    registry = Registry(settings)
    name = f"{recipe.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    run_id = registry.start_run(name, _flat(recipe.model_dump(mode="json")) | {"workers": workers, "gpus": use_gpu})
    reports = Queue(actor_options={"num_cpus": 0})
    storage = f"{settings.artifacts}/runs"
    trainer = _trainer(recipe, name, storage, workers, use_gpu, reports)

    def note(metrics: dict[str, float]) -> None:
        registry.log_metrics(run_id, metrics, step=int(metrics["epoch"]))
        on_report(metrics)

    try:
        result = _fit(trainer, reports, note)
        if result.checkpoint is None or result.metrics is None:
            raise Failure(f"run {name} ended without a checkpoint; its record is in the registry as {run_id}")
        with result.checkpoint.as_directory() as folder:
            version = registry.publish(Path(folder) / "bundle", run_id)
    except BaseException:
        registry.end_run(run_id, failed=True)
        raise
    registry.end_run(run_id, failed=False)
    store.delete(f"{storage}/{name}")
    return Outcome(version, {k: v for k, v in result.metrics.items() if k.startswith("test_")})


def rehearse(recipe: Recipe) -> None:
    """Do one small step and an export here, so that a mistake shows at once and not after hours on a cluster.

    Raises:
        Mistake: data, net, loss and labels do not fit together.
    """
    try:
        dataset = data.load(recipe.data)
        rows = data.split(dataset, recipe.data).train
        if len(rows) < recipe.batch_rows:
            raise Mistake(f"batch_rows={recipe.batch_rows} is more than the {len(rows)} training rows; lower it")
        net = loop.build_net(recipe, rows)
        target_B = rows.targets[:2]
        x_B = loop.augmentation(recipe)(rows.inputs[:2], torch.Generator().manual_seed(0))
        y_BC = net(x_B)
        if y_BC.shape != (len(x_B), len(dataset.labels)):
            wanted = (len(x_B), len(dataset.labels))
            raise Mistake(
                f"{recipe.net.source} gives shape {tuple(y_BC.shape)} for {wanted[0]} rows and {wanted[1]} labels; "
                f"it must give {wanted}: logits, one column per label"
            )
        load_path(recipe.loss.source)(y_BC, target_B, **recipe.loss.args).backward()
        loop.build_optimiser(recipe, net).step()
        bundle.export(net.eval(), rows.inputs[:2])
    except ShoalError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise Mistake(f"{recipe.name} fails at its first step: {type(error).__name__}: {error}") from error


def _trainer(recipe: Recipe, name: str, storage: str, workers: int, use_gpu: bool, reports: Queue) -> TorchTrainer:
    return TorchTrainer(
        loop.train_worker,
        train_loop_config={"recipe": recipe.model_dump(mode="json"), "git_commit": git_commit(recipe)},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[_Forward(reports)],  # type: ignore[list-item]
        ),
    )


def _fit(trainer: TorchTrainer, reports: Queue, note: OnReport) -> ray.train.Result:
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
    while thread.is_alive() or not reports.empty():
        try:
            note(reports.get(timeout=0.2))
        except Empty:
            continue
    if errors:
        raise Failure(f"training failed: {_root_cause(errors[0])}") from errors[0]
    return results[0]


def _root_cause(error: BaseException) -> str:
    """Find what a worker said, under the layers that Ray wraps around it."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    while getattr(error, "cause", None) or error.__cause__:
        error = getattr(error, "cause", None) or error.__cause__  # type: ignore[assignment]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if isinstance(error, ShoalError) else f"{type(error).__name__}: {lines[-1]}"


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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
