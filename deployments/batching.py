"""Batching: what arrived while the last forward pass ran goes through the next one together.

Request walk: codec -> [batching.py: stack] -> the net -> [batching.py: split] -> codec
Ray Serve's own queue, with no waiting: an idle model answers at once, a busy one fills its batches.
"""
# Shapes: B rows of one request, N rows of a batch, T steps of the longest row.

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from ray import serve
from torch import Tensor, nn

Outputs = tuple[Tensor, ...]
Forward = TypeVar("Forward", bound=Callable[..., Awaitable[list[Outputs]]])

# A pass shorter than this runs on the event loop: handing it to a thread and back costs about as much (measured 0.1 ms
# and more under load), and a loop that stalls for so little serves its other requests as well.
INLINE_S = 0.5e-3


def _inspected_once(function: Forward) -> Forward:
    """Keep the signature on the function: Serve's queue asks for it at each request, and inspecting anew is slow."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class Batcher:
    """One net on one device; a single forward pass at a time.

    Rows of steps (texts, series) are filled up to the longest of their batch, which the net leaves out of account, and
    outputs that have steps are cut back to each request's own.
    """

    def __init__(
        self, net: nn.Module, device: str, max_rows: int, padding: float | None, stepped: tuple[bool, ...]
    ) -> None:
        """Take a net; `padding` fills up rows of steps, None where there are none; `stepped` outputs have steps."""
        self._net, self._device, self._max_rows = net, device, max_rows
        self._padding, self._stepped = padding, stepped
        # An exported program checks its input at each call, in about the time that a small net takes. The codec has
        # done so already, against the same shapes.
        net._forward_pre_hooks.clear()
        self._thread = ThreadPoolExecutor(1, "forward")
        self._inline = False
        self.forward.set_max_batch_size(max_rows)  # type: ignore[attr-defined]

    def warm_up(self, x: Tensor) -> None:
        """Run small and full batches, then decide whether a pass is worth a thread; x has shape (1, ...)."""
        x = self._stacked([x], x.shape[1] if self._padding is not None else 0)
        full = x.expand(self._max_rows, *x.shape[1:]).contiguous()
        for batch in (x, full, full):
            self._run(batch)
        start = time.perf_counter()
        self._run(full)
        self._inline = time.perf_counter() - start < INLINE_S

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    @_inspected_once
    async def forward(self, requests: list[Tensor]) -> list[Outputs]:
        """Stack requests of shape (B, ...), pass them through the net, and cut the outputs back, in order."""
        sizes = [len(x) for x in requests]
        steps = [x.shape[1] for x in requests] if self._padding is not None else []
        x_N = self._stacked(requests, max(steps, default=0))
        if self._inline and len(x_N) <= self._max_rows:
            y_N = self._run(x_N)
        else:
            y_N = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, x_N)
        answers = list(zip(*(y.split(sizes) for y in y_N), strict=True))
        if not steps:
            return answers
        return [
            tuple(y[:, :count] if stepped else y for y, stepped in zip(answer, self._stepped, strict=True))
            for answer, count in zip(answers, steps, strict=True)
        ]

    def _stacked(self, requests: list[Tensor], steps: int) -> Tensor:
        if self._padding is not None:
            # An exported net takes two steps or more.
            steps = max(steps, 2)
            requests = [
                x
                if x.shape[1] == steps
                else nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, steps - x.shape[1]), value=self._padding)
                for x in requests
            ]
        return torch.cat(requests) if len(requests) > 1 else requests[0]

    def _run(self, x_N: Tensor) -> Outputs:
        with torch.inference_mode():
            parts = [self._moved(self._net(part.to(self._device))) for part in x_N.split(self._max_rows)]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def _moved(self, y: Tensor | Outputs) -> Outputs:
        return tuple(each.cpu() for each in (y if isinstance(y, tuple) else (y,)))
