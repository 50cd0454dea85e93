"""Batching: what arrived while the last forward pass ran goes through the next one together.

Request walk: codec -> [batching.py: stack] -> the net -> [batching.py: split] -> codec
Ray Serve's own queue, with no waiting: an idle model answers at once, a busy one fills its batches.
"""
# Shapes: B rows of one request, N rows of a batch.

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from ray import serve
from torch import Tensor, nn

Forward = TypeVar("Forward", bound=Callable[..., Awaitable[list[Tensor]]])

# A pass shorter than this runs on the event loop: handing it to a thread and back costs about as much (measured 0.1 ms
# and more under load), and a loop that stalls for so little serves its other requests as well.
INLINE_S = 0.5e-3


def _inspected_once(function: Forward) -> Forward:
    """Keep the signature on the function: Serve's queue asks for it at each request, and inspecting anew is slow."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class Batcher:
    """One net on one device; a single forward pass at a time."""

    def __init__(self, net: nn.Module, device: str, max_rows: int) -> None:
        self._net, self._device, self._max_rows = net, device, max_rows
        # An exported program checks its input at each call, in about the time that a small net takes. The codec has
        # done so already, against the same shapes.
        net._forward_pre_hooks.clear()
        self._thread = ThreadPoolExecutor(1, "forward")
        self._inline = False
        self.forward.set_max_batch_size(max_rows)  # type: ignore[attr-defined]

    def warm_up(self, x: Tensor) -> None:
        """Run small and full batches, then decide whether a pass is worth a thread; x has shape (1, ...)."""
        full = x.expand(self._max_rows, *x.shape[1:]).contiguous()
        for batch in (x, full, full):
            self._run(batch)
        start = time.perf_counter()
        self._run(full)
        self._inline = time.perf_counter() - start < INLINE_S

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    @_inspected_once
    async def forward(self, requests: list[Tensor]) -> list[Tensor]:
        """Stack requests of shape (B, ...), pass them through the net, and cut the output back, in order."""
        sizes = [len(x) for x in requests]
        x_N = torch.cat(requests) if len(requests) > 1 else requests[0]
        if self._inline and len(x_N) <= self._max_rows:
            y_N = self._run(x_N)
        else:
            y_N = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, x_N)
        return list(y_N.split(sizes))

    def _run(self, x_N: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [self._net(part.to(self._device)).cpu() for part in x_N.split(self._max_rows)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]
