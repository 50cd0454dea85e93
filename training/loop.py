"""The loop: what one training worker does, start to finish.

Train walk: run.py -> data.py -> prepare.py -> worker.py -> [loop.py] -> evaluation.conclude -> bundle.py -> registry.py
One loop for every recipe. Knows the recipe, Ray Train and torch; nothing of the registry or the command line.
"""

import os
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from training.evaluation import conclude
from training.evaluation.energy import Energy
from training.messages import Messages
from training.phases import Phases
from training.pulse import Beat, Pulse
from training.recipe import Recipe
from training.recovery import checkpoint, failures
from training.worker import Worker

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
    progress, phases = checkpoint.Progress(), Phases(on=config["profile"])
    with failures.judged(lambda: progress.steps, config["run"]):
        survey = ray.get(config["survey"]) if config["survey"] else None
        worker = Worker(recipe, context.get_world_rank(), context.get_world_size(), phases, progress, survey)
        loop = _Loop(worker, config["run"], Messages(config["messages"], worker.rank))
        with Energy(config["country"], rank=worker.rank) as energy:
            loop.resume(config["last"])
            with phases.phase("all"):
                while not progress.stopped:
                    loop.train_epoch()
                    loop.close_epoch()
        conclude.conclude(worker, config, energy)


class _Loop:
    """Epochs of one worker, with what happens between steps."""

    def __init__(self, worker: Worker, run: str, messages: Messages) -> None:
        self.worker, self.progress, self.run, self.messages = worker, worker.progress, run, messages
        self._pulse = Pulse(worker.recipe.optimiser.lr, worker.progress)
        # Training seconds at the last checkpoint.
        self._kept_at = 0.0

    def resume(self, before: str | None) -> None:
        """Go on from the last checkpoint, if this run has one, else from the one `before` it began."""
        last = ray.train.get_checkpoint() or (Checkpoint(before) if before else None)
        if last:
            with last.as_directory() as folder:
                checkpoint.restore(Path(folder), self.worker.state)
            self._kept_at = self.progress.seconds
        self.messages.put("started", epoch=self.progress.epoch, step=self.progress.steps, world=self.worker.world)

    def train_epoch(self) -> None:
        """Pass over the training rows, from where the run is, until the epoch or the run ends."""
        worker, progress, recipe = self.worker, self.progress, self.worker.recipe
        pulse, last = self._pulse, recipe.stop.steps or worker.steps
        pulse.start()
        for batch in worker.phases.waiting(worker.feed.train(progress.epoch, skip=progress.step)):
            loss = worker.step(batch, self._seed())
            progress.step += 1
            progress.steps += 1
            due = pulse.step(loss, len(batch))
            over = progress.steps >= last
            if due or over:
                self._look_up(pulse.beat(progress.steps))
            if over or progress.stopped:
                break
        self._note(pulse.beat(progress.steps))

    def close_epoch(self) -> None:
        """Score the validation rows, keep the best weights, decide whether to go on, and keep a checkpoint."""
        worker, progress, stop = self.worker, self.progress, self.worker.recipe.stop
        loss = progress.loss_sum / max(progress.rows, 1)
        progress.epoch += 1
        progress.step, progress.loss_sum, progress.rows = 0, 0.0, 0
        with worker.phases.phase("validation"):
            scores = worker.task.scores(worker.facts("validation"))
            worker.keep_best(scores[worker.task.metric])
        metrics = {"epoch": progress.epoch, "loss": loss, "lr": worker.lr} | conclude.prefixed("validation", scores)
        progress.history.append(metrics)
        progress.stopped = progress.stopped or self._reason(loss, scores[worker.task.metric])
        if progress.epoch >= stop.epochs and not progress.stopped:
            progress.stopped = "epochs"
        self._keep(metrics, scores[worker.task.metric])

    def _reason(self, loss: float, score: float) -> str:
        """Why the run is over after this epoch; empty if it is not."""
        progress, stop = self.progress, self.worker.recipe.stop
        if stop.steps is not None and progress.steps >= stop.steps:
            return "steps"
        # Within an epoch of less than a second nobody looks up.
        if stop.seconds is not None and progress.seconds >= stop.seconds:
            return "seconds"
        if stop.loss is not None and loss <= stop.loss:
            return "loss"
        if stop.score is not None and (score >= stop.score if self.worker.task.higher else score <= stop.score):
            return "score"
        if stop.patience is not None and progress.epoch - progress.risen_epoch >= stop.patience:
            return "patience"
        return ""

    def _look_up(self, beat: Beat) -> None:
        """What happens about once a second, at the same step on all workers."""
        progress, recipe = self.progress, self.worker.recipe
        self._note(beat)
        if recipe.stop.seconds is not None and progress.seconds >= recipe.stop.seconds:
            progress.stopped = "seconds"
        elif beat.preempted or progress.seconds - self._kept_at >= recipe.checkpoints.every_s:
            if beat.preempted:
                self.messages.put("notice", step=progress.steps)
            self._keep({"epoch": progress.epoch, "step": progress.steps}, score=None)

    def _note(self, beat: Beat) -> None:
        progress = self.progress
        progress.loss_sum += beat.loss_sum
        progress.rows += beat.rows
        progress.seconds += beat.seconds
        if beat.rows:
            self.messages.put(
                "beat",
                epoch=progress.epoch,
                step=progress.steps,
                steps=self.worker.steps,
                loss=beat.loss_sum / beat.rows,
                rows_per_s=beat.rows / max(beat.seconds, 1e-9),
            )

    def _keep(self, metrics: dict[str, float], score: float | None) -> None:
        self._kept_at = self.progress.seconds
        with self.worker.phases.phase("checkpoint"):
            taken = checkpoint.snapshot(self.worker.state)
            metrics = metrics | checkpoint.order(score, higher=self.worker.task.higher)
            checkpoint.report(metrics, taken, self.worker.rank, run=self.run)

    def _seed(self) -> int:
        """One seed for each (recipe seed, step, rank)."""
        return ((self.worker.recipe.seed * 1_000_003 + self.progress.steps) * 1_009 + self.worker.rank) * 2
