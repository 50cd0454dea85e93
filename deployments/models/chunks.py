"""Chunks: the rows of one request that go through the net in one pass, and how a request's outputs are put together.

Request walk: batching.py -> [chunks.py]
"""
# Shapes: B rows of one request, N rows of a pass, T time steps (or tokens) of the longest row.

import asyncio
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from deployments.protocols.arrays import Array, Outputs
from deployments.server.scheduling import Scheduling

_UNSCHEDULED = Scheduling()


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
    """A request on its way: its number of rows, and the outputs of those that are through."""

    __slots__ = (
        "deadline_s",
        "future",
        "is_started",
        "parts",
        "priority",
        "queued_s",
        "remaining_rows",
        "rows",
        "timeout_s",
        "timing",
    )

    def __init__(
        self,
        future: "asyncio.Future[Outputs]",
        rows: int,
        scheduling: Scheduling | None = None,
        timing: RequestTiming | None = None,
    ) -> None:
        self.future, self.rows, self.remaining_rows = future, rows, rows
        self.deadline_s, self.priority, self.timeout_s = scheduling or _UNSCHEDULED
        self.queued_s, self.is_started, self.timing = perf_counter(), False, timing
        self.parts: list[tuple[slice | Array, Outputs]] = []


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


def resolve_futures(batch: list[Chunk], outputs: list[Outputs | Exception]) -> None:
    """Give each request its outputs, once all its rows are through."""
    for chunk, chunk_outputs in zip(batch, outputs, strict=True):
        request = chunk.request
        if request.future.done():
            continue
        if isinstance(chunk_outputs, Exception):
            request.future.set_exception(chunk_outputs)
            continue
        if len(chunk.x) == request.rows and isinstance(chunk.row_index, slice):
            request.future.set_result(chunk_outputs)
            continue
        request.parts.append((chunk.row_index, chunk_outputs))
        request.remaining_rows -= len(chunk.x)
        if not request.remaining_rows:
            request.future.set_result(_reassemble(request))


def _reassemble(request: PendingRequest) -> Outputs:
    """Put a request's rows back in their order; outputs with a time axis are padded with zeros."""
    outputs = []
    for number, first in enumerate(request.parts[0][1]):
        parts = [(row_index, chunk_outputs[number]) for row_index, chunk_outputs in request.parts]
        shape = np.max([y.shape[1:] for _, y in parts], axis=0).astype(int)
        y_B = np.zeros((request.rows, *shape), first.dtype)
        for row_index, y in parts:
            y_B[(row_index, *(slice(0, size) for size in y.shape[1:]))] = y
        outputs.append(y_B)
    return tuple(outputs)
