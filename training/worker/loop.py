"""The training loop: what one worker does, start to finish, for every recipe.

Train walk: training.run.driver -> [loop.py] -> training_worker.py, finalize.py
Knows the recipe, Ray Train and torch; nothing of the registry or the command line.
"""

import os
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from training.recipe.spec import Recipe
from training.worker import checkpoint
from training.worker.energy import EnergyMeter
from training.worker.error_classification import classify_failures
from training.worker.finalize import Finalize, finalize_run, prefix_keys
from training.worker.gradients import GradientAccumulation
from training.worker.progress_channel import ProgressSender
from training.worker.progress_sync import ProgressSync, SyncedProgress
from training.worker.ray_internals import CheckpointStorage
from training.worker.stall_watch import StallWatch
from training.worker.step_timer import StepTimer
from training.worker.training_worker import GradientStepFactory, Worker

NICENESS = 10


def train_worker(
    config: dict[str, Any],
    *,
    gradient_step: GradientStepFactory = GradientAccumulation,
    finalize: Finalize = finalize_run,
) -> None:
    """Train as one of several workers; Ray Train calls it on each.

    Args:
        config: the same on every worker: {"recipe": Recipe as JSON, "run": its name, "git_commit": str or None,
            "profile": bool, "country": str, "channel": ProgressChannel, "scan": reference to the FileScan or None,
            "last_checkpoint": path or URI to resume from where Ray Train knows of no checkpoint, or None}.
        gradient_step: makes the strategy that computes a step's gradients.
        finalize: ends the run; the default publishes the best weights.
    """
    # On a machine that serves as well, training yields the processor.
    os.nice(NICENESS)
    context = ray.train.get_context()
    recipe = Recipe.model_validate(config["recipe"])
    progress, timer = checkpoint.TrainProgress(), StepTimer(enabled=config["profile"])
    with classify_failures(lambda: progress.global_step, config["run"]):
        scan = ray.get(config["scan"]) if config["scan"] else None
        rank, world_size = context.get_world_rank(), context.get_world_size()
        sender = ProgressSender(config["channel"], rank)
        # Before a data source runs, which can end the process.
        sender.send("loading", **_identify_process())
        with StallWatch(sender) as stall_watch:
            worker = Worker(recipe, rank, world_size, timer, progress, scan, gradient_step)
            loop = TrainLoop(worker, config["run"], sender, stall_watch)
            with EnergyMeter(config["country"]) as energy:
                loop.resume(config["last_checkpoint"])
                with timer.measure("all"):
                    while not progress.stop_reason:
                        loop.train_epoch()
                        loop.end_epoch()
            finalize(worker, config, energy)


class TrainLoop:
    """The epochs of one worker, and what happens between steps."""

    def __init__(self, worker: Worker, run: str, sender: ProgressSender, stall_watch: StallWatch) -> None:
        self.worker, self.progress, self.run, self.sender = worker, worker.progress, run, sender
        self._stall_watch = stall_watch
        self._sync = ProgressSync(worker.recipe.optimizer.lr, worker.progress)
        self._storage = CheckpointStorage()
        # Training time at the last checkpoint.
        self._saved_at_s = 0.0

    def resume(self, last_checkpoint: str | None) -> None:
        """Restore the run's last checkpoint, if it has one.

        Args:
            last_checkpoint: path or URI, used where Ray Train knows of none.
        """
        last = ray.train.get_checkpoint() or (Checkpoint(last_checkpoint) if last_checkpoint else None)
        if last:
            with last.as_directory() as folder:
                checkpoint.restore_state(Path(folder), self.worker.state)
            self._saved_at_s = self.progress.seconds
        self.sender.send(
            "started",
            epoch=self.progress.epoch,
            step=self.progress.global_step,
            world_size=self.worker.world_size,
            **_identify_process(),
        )

    def train_epoch(self) -> None:
        """Train from the run's position to the end of the epoch or of the run."""
        worker, progress = self.worker, self.progress
        last_step = worker.recipe.stop.steps or worker.total_steps
        self._sync.start_clock()
        batches = worker.feed.train_batches(progress.epoch, skip_steps=progress.epoch_step)
        for batch in worker.timer.measure_waits(batches):
            loss = worker.train_step(batch, self._step_seed())
            self._stall_watch.record_step()
            progress.epoch_step += 1
            progress.global_step += 1
            is_due = self._sync.record_step(loss, len(batch))
            is_last = progress.global_step >= last_step
            if is_due or is_last:
                self._on_sync(self._sync.synchronize(progress.global_step))
            if is_last or progress.stop_reason:
                break
        self._record(self._sync.synchronize(progress.global_step))

    def end_epoch(self) -> None:
        """Evaluate the validation split, keep the best weights, check the stop rules, save a checkpoint."""
        worker, progress = self.worker, self.progress
        loss = progress.loss_sum / max(progress.rows, 1)
        progress.epoch += 1
        progress.epoch_step, progress.loss_sum, progress.rows = 0, 0.0, 0
        with worker.timer.measure("validation"):
            scores = worker.task.validation_metrics(worker.compute_eval_outputs("validation"))
            score = scores[worker.task.primary_metric]
            worker.keep_best(score)
        metrics = {"epoch": progress.epoch, "loss": loss, "lr": worker.lr} | prefix_keys("validation", scores)
        progress.history.append(metrics)
        progress.stop_reason = progress.stop_reason or self._check_stop_rules(loss, score)
        self._save_checkpoint(metrics, score)

    def _check_stop_rules(self, loss: float, score: float) -> str:
        """Return the rule that ends the run after this epoch; empty if none does."""
        progress, stop = self.progress, self.worker.recipe.stop
        if stop.steps is not None and progress.global_step >= stop.steps:
            return "steps"
        # An epoch of less than SYNC_INTERVAL_S may not have been synchronized, nor its time checked.
        if stop.seconds is not None and progress.seconds >= stop.seconds:
            return "seconds"
        if stop.loss is not None and loss <= stop.loss:
            return "loss"
        if stop.score is not None and (
            score >= stop.score if self.worker.task.higher_is_better else score <= stop.score
        ):
            return "score"
        if stop.patience is not None and progress.epoch - progress.last_improved_epoch >= stop.patience:
            return "patience"
        return "epochs" if progress.epoch >= stop.epochs else ""

    def _on_sync(self, synced: SyncedProgress) -> None:
        """Act on what all workers agreed on at this step: the time limit, a preemption, the checkpoint interval."""
        progress, recipe = self.progress, self.worker.recipe
        self._record(synced)
        if recipe.stop.seconds is not None and progress.seconds >= recipe.stop.seconds:
            progress.stop_reason = "seconds"
        elif synced.preempted or progress.seconds - self._saved_at_s >= recipe.checkpoints.interval_s:
            if synced.preempted:
                self.sender.send("preemption_notice", step=progress.global_step)
            self._save_checkpoint({"epoch": progress.epoch, "step": progress.global_step}, score=None)

    def _record(self, synced: SyncedProgress) -> None:
        progress = self.progress
        progress.loss_sum += synced.loss_sum
        progress.rows += synced.rows
        progress.seconds += synced.seconds
        if synced.rows:
            self.sender.send(
                "progress",
                epoch=progress.epoch,
                step=progress.global_step,
                steps=self.worker.total_steps,
                loss=synced.loss_sum / synced.rows,
                rows_per_s=synced.rows / max(synced.seconds, 1e-9),
            )

    def _save_checkpoint(self, metrics: dict[str, float], score: float | None) -> None:
        worker = self.worker
        self._saved_at_s = self.progress.seconds
        with worker.timer.measure("checkpoint"):
            snapshot = checkpoint.take_snapshot(worker.state)
            metrics = metrics | checkpoint.ordering_metric(score, higher_is_better=worker.task.higher_is_better)
            checkpoint.report_checkpoint(metrics, snapshot, self._storage, rank=worker.rank, run=self.run)

    def _step_seed(self) -> int:
        """Return an even seed for each (recipe seed, step, rank); the odd one after it is the augmentation's."""
        return ((self.worker.recipe.seed * 1_000_003 + self.progress.global_step) * 1_009 + self.worker.rank) * 2


def _identify_process() -> dict[str, Any]:
    # Without a cluster there is no node, and asking would start one.
    node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    return {"node_id": node_id, "pid": os.getpid()}
