"""Chunks: the rows of one request that go through the net in one pass, and how a request's outputs are put together.

Request walk: batching.py -> [chunks.py]
"""
# Shapes: B rows of one request, N rows of a pass, T time steps (or tokens) of the longest row.

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from deployments.access.caller import CURRENT_CALLER
from deployments.access.limits.accounts import CURRENT_CHARGE
from deployments.access.usage.request_usage import RequestUsage
from deployments.observability.private_errors import describe_error
from deployments.protocols.arrays import Array, Outputs
from deployments.server.scheduling import Scheduling

_UNSCHEDULED = Scheduling()
logger = logging.getLogger("ray.serve")


@dataclass(slots=True)
class RequestTiming:
    """When a request was in the queue and in passes, by time.perf_counter, for whoever traces it.

    Attributes:
        queued_s: when it came.
        started_s: start of its first pass; 0 where it had none.
        ended_s: end of its last one.
        passes: that its rows took.
        pass_rows: rows of all requests in its largest pass.
    """

    queued_s: float = 0.0
    started_s: float = 0.0
    ended_s: float = 0.0
    passes: int = 0
    pass_rows: int = 0


class PendingRequest:
    """A request on its way: its number of rows, and the outputs of those that are through.

    Attributes:
        is_done: whether it has its outputs or an error, or nobody waits for them any more.
        is_abandoned: the latter.
        charge: what it has taken of its caller's limits; None where there are none.
        tenant: of its caller.
    """

    __slots__ = (
        "charge",
        "deadline_s",
        "is_abandoned",
        "is_done",
        "is_started",
        "on_done",
        "parts",
        "priority",
        "queued_s",
        "remaining_rows",
        "rows",
        "tenant",
        "timeout_s",
        "timer",
        "timing",
        "usage",
    )

    def __init__(
        self,
        rows: int,
        on_done: Callable[[Outputs | Exception], None],
        scheduling: Scheduling | None = None,
        timing: RequestTiming | None = None,
        usage: RequestUsage | None = None,
    ) -> None:
        self.rows = self.remaining_rows = rows
        self.on_done, self.timing, self.usage = on_done, timing, usage
        self.deadline_s, self.priority, self.timeout_s = scheduling or _UNSCHEDULED
        self.charge, self.tenant = CURRENT_CHARGE.get(), CURRENT_CALLER.get().tenant
        self.queued_s = perf_counter()
        self.is_started = self.is_done = self.is_abandoned = False
        self.timer: asyncio.TimerHandle | None = None
        self.parts: list[tuple[slice | Array, Outputs]] | None = None

    def finish(self, result: Outputs | Exception) -> None:
        """Hand over the outputs, or an error; without effect once it is done."""
        if self.is_done:
            return
        self.is_done = True
        if self.timer is not None:
            self.timer.cancel()
        try:
            self.on_done(result)
        except Exception as error:
            # Others of the same pass still wait for theirs.
            logger.error("a request's outputs could not be handed over\n%s", describe_error(error))

    def abandon(self) -> None:
        """Drop its rows before the next pass, since nobody waits for it; without effect once it is done."""
        if self.is_done:
            return
        self.is_done = self.is_abandoned = True
        if self.timer is not None:
            self.timer.cancel()


@dataclass(slots=True, eq=False)
class Chunk:
    """Rows of one request that go through the net in one pass.

    Attributes:
        request: the request.
        x: shape (B, ...) or (B, T, ...).
        row_index: which rows of the request these are.
        lengths: int64 (B,), time steps of each row without padding; None where all have T.
    """

    request: PendingRequest
    x: Array
    row_index: slice | Array
    lengths: Array | None = None

    @property
    def time_steps(self) -> int:
        """Time steps of all rows, without padding."""
        return len(self.x) * self.x.shape[1] if self.lengths is None else int(self.lengths.sum())

    def split(self, rows: int) -> tuple["Chunk", "Chunk"]:
        """Split off the first rows."""
        index, lengths = self.row_index, self.lengths
        if isinstance(index, slice):
            middle = index.start + rows
            first_index: slice | Array = slice(index.start, middle)
            rest_index: slice | Array = slice(middle, index.stop)
        else:
            first_index, rest_index = index[:rows], index[rows:]
        first = Chunk(self.request, self.x[:rows], first_index, None if lengths is None else lengths[:rows])
        rest = Chunk(self.request, self.x[rows:], rest_index, None if lengths is None else lengths[rows:])
        return first, rest


def split_outputs(batch: list[Chunk], y_N: Outputs, has_time_axis: tuple[bool, ...]) -> list[Outputs | Exception]:
    """Split the outputs of a pass by its chunks; those with a time axis are cut to the chunk's own."""
    if len(batch) == 1 and not any(has_time_axis):
        return [y_N]
    outputs: list[Outputs | Exception] = []
    start = 0
    if len(y_N) == 1 and not has_time_axis[0]:
        (y,) = y_N
        for chunk in batch:
            outputs.append((y[start : (start := start + len(chunk.x))],))
        return outputs
    for chunk in batch:
        rows = slice(start, start := start + len(chunk.x))
        outputs.append(
            tuple(
                y[rows, : chunk.x.shape[1]] if is_cut else y[rows] for y, is_cut in zip(y_N, has_time_axis, strict=True)
            )
        )
    return outputs


def finish_requests(batch: list[Chunk], outputs: list[Outputs | Exception]) -> None:
    """Give each request its outputs, once all its rows are through."""
    for chunk, chunk_outputs in zip(batch, outputs, strict=True):
        request = chunk.request
        if request.is_done:
            continue
        if isinstance(chunk_outputs, Exception) or (
            len(chunk.x) == request.rows and isinstance(chunk.row_index, slice)
        ):
            request.finish(chunk_outputs)
            continue
        if request.parts is None:
            request.parts = []
        request.parts.append((chunk.row_index, chunk_outputs))
        request.remaining_rows -= len(chunk.x)
        if not request.remaining_rows:
            try:
                result: Outputs | Exception = _reassemble(request.rows, request.parts)
            except Exception as error:
                result = error
            request.finish(result)


def _reassemble(rows: int, request_parts: list[tuple[slice | Array, Outputs]]) -> Outputs:
    """Put a request's rows back in their order; outputs with a time axis are padded with zeros."""
    outputs = []
    for number, first in enumerate(request_parts[0][1]):
        parts = [(row_index, chunk_outputs[number]) for row_index, chunk_outputs in request_parts]
        shape = np.max([y.shape[1:] for _, y in parts], axis=0).astype(int)
        y_B = np.zeros((rows, *shape), first.dtype)
        for row_index, y in parts:
            y_B[(row_index, *(slice(0, size) for size in y.shape[1:]))] = y
        outputs.append(y_B)
    return tuple(outputs)
