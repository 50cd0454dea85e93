"""Pulse: about once a second all workers look up from their steps and agree on what goes on.

One small all-reduce says how the loss fares, whether a worker met a number that is none, how much time went by, and
whether a machine is about to be taken away; so every worker takes the same decision at the same step.
"""

import math
import time
from dataclasses import dataclass

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import ServiceError
from training.worker.checkpoint import TrainProgress

SYNC_INTERVAL_S = 1.0
MAX_STEPS_PER_SYNC = 1000
# Ray asks its cluster every five seconds which machines are to go; asking more often tells nothing new.
SYNCS_PER_PREEMPTION_CHECK = 5
# A loss so many times the first one is not coming back.
DIVERGENCE_FACTOR = 100.0


@dataclass(frozen=True)
class SyncedProgress:
    """What all workers know after a beat.

    Attributes:
        loss_sum: over the rows since the last beat, of all workers.
        rows: since the last beat, of all workers.
        seconds: since the last beat, the mean over the workers.
        preempted: whether a worker's machine is about to be taken away.
    """

    loss_sum: float
    rows: int
    seconds: float
    preempted: bool


class ProgressSync:
    """Collects a worker's steps, and decides when to look up."""

    def __init__(self, lr: float, progress: TrainProgress) -> None:
        self._lr, self._progress = lr, progress
        self._stride, self._beats = 1, 0
        self._losses: list[Tensor] = []
        self._rows: list[int] = []
        self._since_s = time.perf_counter()

    def start_clock(self) -> None:
        """Begin to count time; what went before was no training."""
        self._since_s = time.perf_counter()

    def record_step(self, loss: Tensor, rows: int) -> bool:
        """Note one step's mean loss over a worker's own rows; returns whether it is time to beat."""
        self._losses.append(loss.detach())
        self._rows.append(rows)
        return len(self._losses) >= self._stride

    def synchronize(self, step: int) -> SyncedProgress:
        """Agree with the others.

        Args:
            step: how many steps the run has made, for the message.

        Raises:
            Failure: the loss is not finite, or has exploded.
        """
        losses = torch.stack(self._losses).double().cpu() if self._losses else torch.zeros(0)
        rows, count = torch.tensor(self._rows, dtype=torch.float64), len(self._losses)
        bad = (~torch.isfinite(losses)).nonzero().flatten()
        first_bad = step - count + int(bad[0]) + 1 if len(bad) else math.inf
        now_s = time.perf_counter()
        # What a beat itself takes, and what is done at it, is of the time until the next one.
        seconds, self._since_s = now_s - self._since_s, now_s
        sums = torch.tensor([float((losses * rows).sum()), float(rows.sum()), seconds, 1.0], dtype=torch.float64)
        lowest = torch.tensor([first_bad], dtype=torch.float64)
        if dist.is_initialized():
            device = ray.train.torch.get_device()
            sums, lowest = sums.to(device), lowest.to(device)
            dist.all_reduce(sums)
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
        loss_sum, all_rows, all_seconds, workers = sums.tolist()
        self._check_loss(loss_sum / max(all_rows, 1), lowest.item(), step)
        seconds = all_seconds / workers
        if count:
            self._stride = max(1, min(MAX_STEPS_PER_SYNC, int(SYNC_INTERVAL_S * count / max(seconds, 1e-6))))
        self._beats += 1
        preempted = self._beats % SYNCS_PER_PREEMPTION_CHECK == 0 and ray.train.get_preemption_info() is not None
        self._losses, self._rows = [], []
        return SyncedProgress(loss_sum, int(all_rows), seconds, preempted)

    def _check_loss(self, mean: float, first_bad: float, step: int) -> None:
        remedy = f"try a lower optimiser.lr (now {self._lr:g}), schedule.warmup, or clip=1.0"
        if math.isfinite(first_bad):
            raise ServiceError(f"the loss is no finite number at step {int(first_bad)}; {remedy}")
        first = self._progress.first_loss
        if first is None:
            self._progress.first_loss = mean
        elif mean > DIVERGENCE_FACTOR * max(first, 1e-3):
            raise ServiceError(f"the loss exploded from {first:.4g} to {mean:.4g} by step {step}; {remedy}")
