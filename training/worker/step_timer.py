"""Phases: where the time of a training step goes, for `shoal train --profile`."""

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
    """Seconds by phase, and the bytes of gradients that workers exchanged; does nothing unless it is switched on.

    The all-reduce overlaps with the backward pass: its seconds are from the first bucket handed over to the last one
    back, and are part of backward's. All phases are parts of "all", which is the run from its first step on.
    """

    def __init__(self, on: bool) -> None:
        self.enabled = on
        self.seconds: dict[str, float] = defaultdict(float)
        self.all_reduce_bytes = self.steps = 0
        self._exchange_from: float | None = None

    def measure(self, name: str) -> AbstractContextManager[None]:
        """Time what is inside."""
        return self._timed(name) if self.enabled else nullcontext()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start
            self._exchange_from = None

    def measure_waits(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, and time the wait for each as data."""
        if not self.enabled:
            yield from items
            return
        iterator = iter(items)
        while True:
            with self.measure("data"):
                item = next(iterator, None)
            if item is None:
                return
            self.steps += 1
            yield item

    def watch_all_reduce(self, net: nn.Module) -> None:
        """Time a DDP net's all-reduce from inside."""
        if self.enabled and isinstance(net, DistributedDataParallel):
            net.register_comm_hook(None, self._timed_allreduce)

    # DDP asks for exactly this annotation, which torch does not export to type checkers.
    def _timed_allreduce(
        self,
        _: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        if self._exchange_from is None:
            self._exchange_from = time.perf_counter()
        self.all_reduce_bytes += bucket.buffer().nbytes
        future = allreduce_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]

        def arrived(done: torch.futures.Future[Tensor]) -> Tensor:
            if bucket.is_last() and self._exchange_from is not None:
                self.seconds["all-reduce"] += time.perf_counter() - self._exchange_from
            return done.value()

        timed: torch.futures.Future[Tensor] = future.then(arrived)
        return timed

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
