"""The loop: what one training worker does, start to finish.

Train walk: run.py -> data.py -> prepare.py -> worker.py -> [loop.py] -> evaluation.conclude -> bundle.py -> registry.py
One loop for every recipe. Knows the recipe, Ray Train and torch; nothing of the registry or the command line.
"""

import os
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from training.recipe.spec import Recipe
from training.worker import checkpoint, failures, finalize
from training.worker.energy import EnergyMeter
from training.worker.progress_channel import ProgressSender
from training.worker.progress_sync import ProgressSync, SyncedProgress
from training.worker.step import Worker
from training.worker.step_timer import StepTimer

NICENESS = 10


def train_worker(config: dict[str, Any]) -> None:
    """Train as one of `world` workers; rank 0 also keeps checkpoints and writes the bundle.

    Args:
        config: {"recipe": Recipe as JSON, "run": the run's name, "git_commit": str | None, "profile": bool, "country":
            str, "messages": queue to the driver, "survey": reference to that of the files or None, "last": where to
            find the checkpoint to begin at, if Ray Train knows of none}; Ray Train hands it to every worker.
    """
    # Where a machine also serves, training is what yields.
    os.nice(NICENESS)
    context = ray.train.get_context()
    recipe = Recipe.model_validate(config["recipe"])
    progress, phases = checkpoint.TrainProgress(), StepTimer(on=config["profile"])
    with failures.classify_failures(lambda: progress.global_step, config["run"]):
        survey = ray.get(config["survey"]) if config["survey"] else None
        worker = Worker(recipe, context.get_world_rank(), context.get_world_size(), phases, progress, survey)
        loop = _TrainLoop(worker, config["run"], ProgressSender(config["messages"], worker.rank))
        with EnergyMeter(config["country"], rank=worker.rank) as energy:
            loop.resume(config["last"])
            with phases.measure("all"):
                while not progress.stop_reason:
                    loop.train_epoch()
                    loop.end_epoch()
        finalize.finalize(worker, config, energy)


class _TrainLoop:
    """Epochs of one worker, with what happens between steps."""

    def __init__(self, worker: Worker, run: str, messages: ProgressSender) -> None:
        self.worker, self.progress, self.run, self.messages = worker, worker.progress, run, messages
        self._pulse = ProgressSync(worker.recipe.optimizer.lr, worker.progress)
        # Training seconds at the last checkpoint.
        self._kept_at = 0.0

    def resume(self, before: str | None) -> None:
        """Go on from the last checkpoint, if this run has one, else from the one `before` it began."""
        last = ray.train.get_checkpoint() or (Checkpoint(before) if before else None)
        if last:
            with last.as_directory() as folder:
                checkpoint.restore_state(Path(folder), self.worker.state)
            self._kept_at = self.progress.seconds
        self.messages.send(
            "started", epoch=self.progress.epoch, step=self.progress.global_step, world=self.worker.world
        )

    def train_epoch(self) -> None:
        """Pass over the training rows, from where the run is, until the epoch or the run ends."""
        worker, progress, recipe = self.worker, self.progress, self.worker.recipe
        pulse, last = self._pulse, recipe.stop.steps or worker.total_steps
        pulse.start_clock()
        for batch in worker.timer.measure_waits(worker.feed.train_batches(progress.epoch, skip=progress.epoch_step)):
            loss = worker.train_step(batch, self._seed())
            progress.epoch_step += 1
            progress.global_step += 1
            due = pulse.record_step(loss, len(batch))
            over = progress.global_step >= last
            if due or over:
                self._on_sync(pulse.synchronize(progress.global_step))
            if over or progress.stop_reason:
                break
        self._record(pulse.synchronize(progress.global_step))

    def end_epoch(self) -> None:
        """Score the validation rows, keep the best weights, decide whether to go on, and keep a checkpoint."""
        worker, progress, stop = self.worker, self.progress, self.worker.recipe.stop
        loss = progress.loss_sum / max(progress.rows, 1)
        progress.epoch += 1
        progress.epoch_step, progress.loss_sum, progress.rows = 0, 0.0, 0
        with worker.timer.measure("validation"):
            scores = worker.task.validation_metrics(worker.compute_eval_outputs("validation"))
            worker.keep_best(scores[worker.task.metric])
        metrics = {"epoch": progress.epoch, "loss": loss, "lr": worker.lr} | finalize.add_prefix("validation", scores)
        progress.history.append(metrics)
        progress.stop_reason = progress.stop_reason or self._stop_reason(loss, scores[worker.task.metric])
        if progress.epoch >= stop.epochs and not progress.stop_reason:
            progress.stop_reason = "epochs"
        self._save_checkpoint(metrics, scores[worker.task.metric])

    def _stop_reason(self, loss: float, score: float) -> str:
        """Why the run is over after this epoch; empty if it is not."""
        progress, stop = self.progress, self.worker.recipe.stop
        if stop.steps is not None and progress.global_step >= stop.steps:
            return "steps"
        # Within an epoch of less than a second nobody looks up.
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
        return ""

    def _on_sync(self, beat: SyncedProgress) -> None:
        """What happens about once a second, at the same step on all workers."""
        progress, recipe = self.progress, self.worker.recipe
        self._record(beat)
        if recipe.stop.seconds is not None and progress.seconds >= recipe.stop.seconds:
            progress.stop_reason = "seconds"
        elif beat.preempted or progress.seconds - self._kept_at >= recipe.checkpoints.interval_s:
            if beat.preempted:
                self.messages.send("notice", step=progress.global_step)
            self._save_checkpoint({"epoch": progress.epoch, "step": progress.global_step}, score=None)

    def _record(self, beat: SyncedProgress) -> None:
        progress = self.progress
        progress.loss_sum += beat.loss_sum
        progress.rows += beat.rows
        progress.seconds += beat.seconds
        if beat.rows:
            self.messages.send(
                "beat",
                epoch=progress.epoch,
                step=progress.global_step,
                steps=self.worker.total_steps,
                loss=beat.loss_sum / beat.rows,
                rows_per_s=beat.rows / max(beat.seconds, 1e-9),
            )

    def _save_checkpoint(self, metrics: dict[str, float], score: float | None) -> None:
        self._kept_at = self.progress.seconds
        with self.worker.timer.measure("checkpoint"):
            taken = checkpoint.take_snapshot(self.worker.state)
            metrics = metrics | checkpoint.ordering_metric(score, higher=self.worker.task.higher_is_better)
            checkpoint.report_checkpoint(metrics, taken, self.worker.rank, run=self.run)

    def _seed(self) -> int:
        """One seed for each (recipe seed, step, rank)."""
        return ((self.worker.recipe.seed * 1_000_003 + self.progress.global_step) * 1_009 + self.worker.rank) * 2
