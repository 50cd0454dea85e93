"""Ray Train: runs the training loop on the cluster's workers, and relays their messages while it runs.

Train walk: driver.py -> [ray_train.py] -> failure_policy.py, pending_resources.py
Knows nothing of the registry.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from training.data.files.scan import FileScan, stream_rows
from training.errors import ServiceError, ShoalError, UserError
from training.recipe.spec import Recipe
from training.run.failure_policy import FailurePolicy
from training.run.options import RunOptions, WorkerCount
from training.run.pending_resources import PlacementWatch
from training.worker.checkpoint import ORDERING_METRIC
from training.worker.error_classification import first_line, resume_hint, root_cause
from training.worker.progress_channel import Message, ProgressChannel, Receiver

if TYPE_CHECKING:
    # The public names, as type checkers see them, are those of Ray Train v1.
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
else:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

# How often Ray Train compares an elastic run's workers with the cluster.
RESIZE_INTERVAL_S = 10.0
POLL_INTERVAL_S = 0.2

OnMessage = Callable[[Message], None]
TrainLoop = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers a run has, and whether each has a GPU."""

    workers: WorkerCount
    use_gpu: bool


def plan_workers(recipe: Recipe, options: RunOptions, resumed_workers: WorkerCount | None) -> WorkerPlan:
    """Choose how many workers run on what.

    Args:
        recipe: gives the default, where the cluster has no GPU; otherwise one worker per GPU is the default.
        options: of the run; they come first.
        resumed_workers: of the run that is resumed; they come second.

    Raises:
        UserError: the recipe's batch is too small for so many workers.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = options.workers or resumed_workers or WorkerCount(bounds=(gpus or recipe.workers,) * 2)
    _, high = workers.bounds
    if recipe.batch_size < high * recipe.gradient_accumulation:
        raise UserError(
            f"batch_size={recipe.batch_size} is less than {high} workers times "
            f"gradient_accumulation={recipe.gradient_accumulation}; raise it, or take fewer workers"
        )
    return WorkerPlan(workers, use_gpu=options.gpus or gpus > 0)


def build_trainer(
    train_loop: TrainLoop,
    config: dict[str, Any],
    recipe: Recipe,
    plan: WorkerPlan,
    storage_path: str,
    scan: FileScan | None,
) -> TorchTrainer:
    """Build the trainer of one run.

    Args:
        train_loop: what each worker runs.
        config: its argument; see `training.worker.loop.train_worker`.
        recipe: what to train.
        plan: its workers.
        storage_path: folder or URI under which the run's folder is created.
        scan: of the recipe's files, which are streamed to the workers.
    """
    low, high = plan.workers.bounds
    datasets: Any = {"train": stream_rows(scan, recipe.seed, high)} if scan else None
    return TorchTrainer(
        train_loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu=plan.use_gpu,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]
            name=config["run"],
            storage_path=storage_path,
            # Unlimited: FailurePolicy ends the run.
            failure_config=FailureConfig(max_failures=-1),
            checkpoint_config=CheckpointConfig(
                num_to_keep=recipe.checkpoints.num_to_keep, checkpoint_score_attribute=ORDERING_METRIC
            ),
            callbacks=[FailurePolicy(config["channel"], config["run"])],
        ),
        datasets=datasets,
    )


class Fit:
    """`trainer.fit` in a thread of its own, so that the caller's relays messages and can be interrupted."""

    def __init__(self, trainer: TorchTrainer) -> None:
        """Start; Ray Train takes seconds to start its processes, in which the caller may do something else."""
        self._trainer = trainer
        self._results: list[ray.train.Result] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._trainer.fit())
        except BaseException as error:
            self._errors.append(error)

    def wait(self, channel: ProgressChannel, placement: PlacementWatch, on_message: OnMessage) -> ray.train.Result:
        """Relay messages until the end.

        Raises:
            ServiceError: the run failed.
        """
        receiver = Receiver(channel)
        while self._thread.is_alive():
            for message in receiver.receive(POLL_INTERVAL_S):
                placement.observe(message)
                on_message(message)
            waiting = placement.waiting_message()
            if waiting:
                on_message(waiting)
        for message in receiver.receive(POLL_INTERVAL_S):
            on_message(message)
        if self._errors:
            error = self._errors[0]
            raise _to_service_error(error, run=str(self._trainer.run_config.name)) from error
        return self._results[0]


def _to_service_error(error: BaseException, run: str) -> ServiceError:
    cause = root_cause(error)
    if isinstance(cause, ShoalError):
        return ServiceError(f"training failed: {cause}")
    return ServiceError(f"training failed: {type(cause).__name__}: {first_line(cause)}; {resume_hint(run)}")
