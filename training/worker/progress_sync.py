"""Progress sync: about once a second, at the same step, all workers combine their losses, time and preemption notices.

Train walk: loop.py -> [progress_sync.py]
One small all-reduce finds the mean loss, the first loss that is not finite and the time spent, so that every worker
makes the same decision at the same step.
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
# Ray Train polls for nodes that will be drained every five seconds, and each check is a barrier over all workers.
SYNCS_PER_PREEMPTION_CHECK = 5
# A loss this many times the first one does not recover.
DIVERGENCE_FACTOR = 100.0


@dataclass(frozen=True)
class SyncedProgress:
    """What all workers know after a sync.

    Attributes:
        loss_sum: sum of the losses of all workers' rows since the last sync.
        rows: number of these rows.
        seconds: time since the last sync, the mean over the workers.
        preempted: whether a worker's machine is about to be taken away.
    """

    loss_sum: float
    rows: int
    seconds: float
    preempted: bool


class ProgressSync:
    """Collects a worker's losses between syncs, and adapts their distance to the length of a step."""

    def __init__(self, lr: float, progress: TrainProgress) -> None:
        self._lr, self._progress = lr, progress
        self._steps_per_sync, self._sync_count = 1, 0
        self._losses: list[Tensor] = []
        self._rows: list[int] = []
        self._since_s = time.perf_counter()

    def start_clock(self) -> None:
        """Start to count time anew; what came before was not training."""
        self._since_s = time.perf_counter()

    def record_step(self, loss: Tensor, rows: int) -> bool:
        """Record a step's mean loss over this worker's rows; returns whether a sync is due.

        The loss stays on its device: reading it would wait for the step.
        """
        self._losses.append(loss.detach())
        self._rows.append(rows)
        return len(self._losses) >= self._steps_per_sync

    def synchronize(self, global_step: int) -> SyncedProgress:
        """Combine the progress of all workers since the last sync. Collective.

        Args:
            global_step: steps that the run has made, for the message.

        Raises:
            ServiceError: the loss is not finite, or has diverged.
        """
        losses = torch.stack(self._losses).double().cpu() if self._losses else torch.zeros(0)
        rows, steps = torch.tensor(self._rows, dtype=torch.float64), len(self._losses)
        not_finite = (~torch.isfinite(losses)).nonzero().flatten()
        first_not_finite = global_step - steps + int(not_finite[0]) + 1 if len(not_finite) else math.inf
        now_s = time.perf_counter()
        # The time of a sync, and of what is done at it, counts toward the next one.
        seconds, self._since_s = now_s - self._since_s, now_s
        sums = torch.tensor([float((losses * rows).sum()), float(rows.sum()), seconds, 1.0], dtype=torch.float64)
        minimum = torch.tensor([first_not_finite], dtype=torch.float64)
        if dist.is_initialized():
            device = ray.train.torch.get_device()
            sums, minimum = sums.to(device), minimum.to(device)
            dist.all_reduce(sums)
            dist.all_reduce(minimum, dist.ReduceOp.MIN)
        loss_sum, all_rows, all_seconds, workers = sums.tolist()
        self._check_loss(loss_sum / max(all_rows, 1), minimum.item(), global_step)
        mean_seconds = all_seconds / workers
        if steps:
            steps_per_sync = int(SYNC_INTERVAL_S * steps / max(mean_seconds, 1e-6))
            self._steps_per_sync = max(1, min(MAX_STEPS_PER_SYNC, steps_per_sync))
        self._sync_count += 1
        preempted = self._sync_count % SYNCS_PER_PREEMPTION_CHECK == 0 and ray.train.get_preemption_info() is not None
        self._losses, self._rows = [], []
        return SyncedProgress(loss_sum, int(all_rows), mean_seconds, preempted)

    def _check_loss(self, mean_loss: float, first_not_finite: float, global_step: int) -> None:
        remedy = f"lower optimizer.lr (now {self._lr:g}), or set schedule.warmup or clip_grad_norm=1.0"
        if math.isfinite(first_not_finite):
            raise ServiceError(f"the loss is not finite at step {int(first_not_finite)}; {remedy}")
        first_loss = self._progress.first_loss
        if first_loss is None:
            self._progress.first_loss = mean_loss
        elif mean_loss > DIVERGENCE_FACTOR * max(first_loss, 1e-3):
            raise ServiceError(
                f"the loss diverged from {first_loss:.4g} to {mean_loss:.4g} by step {global_step}; {remedy}"
            )
