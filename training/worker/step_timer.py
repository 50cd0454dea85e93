"""Step timer: the time spent in each phase of training, for `shoal train --profile`.

Train walk: loop.py -> [step_timer.py]
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


class StepTimer:
    """Seconds by phase, and the bytes of gradients that workers exchange; does nothing unless enabled.

    The all-reduce overlaps with the backward pass: its seconds run from the first bucket sent to the last one received,
    and are part of "backward". Every phase is part of "all", the run from its first step on.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.seconds: dict[str, float] = defaultdict(float)
        self.all_reduce_bytes = self.steps = 0
        self._all_reduce_start_s: float | None = None

    def measure(self, phase: str) -> AbstractContextManager[None]:
        """Add the time of the block to a phase."""
        return self._measure(phase) if self.enabled else nullcontext()

    @contextmanager
    def _measure(self, phase: str) -> Iterator[None]:
        start_s = self._now()
        try:
            yield
        finally:
            self.seconds[phase] += self._now() - start_s
            self._all_reduce_start_s = None

    def measure_waits(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, adding the wait for each to "data", and count them as steps."""
        if not self.enabled:
            yield from batches
            return
        iterator = iter(batches)
        while True:
            with self.measure("data"):
                batch = next(iterator, None)
            if batch is None:
                return
            self.steps += 1
            yield batch

    def watch_all_reduce(self, net: nn.Module) -> None:
        """Measure the all-reduce of a net that is wrapped by DDP, by a communication hook."""
        if self.enabled and isinstance(net, DistributedDataParallel):
            net.register_comm_hook(None, self._timed_all_reduce)

    # DDP requires exactly this annotation, which torch does not export to type checkers.
    def _timed_all_reduce(
        self,
        _: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        if self._all_reduce_start_s is None:
            self._all_reduce_start_s = time.perf_counter()
        self.all_reduce_bytes += bucket.buffer().nbytes
        future = allreduce_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]

        def on_done(done: torch.futures.Future[Tensor]) -> Tensor:
            if bucket.is_last() and self._all_reduce_start_s is not None:
                self.seconds["all-reduce"] += time.perf_counter() - self._all_reduce_start_s
            return done.value()

        timed: torch.futures.Future[Tensor] = future.then(on_done)
        return timed

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
