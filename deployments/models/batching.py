"""Batching: rows that arrived during one forward pass go through the net together in the next.

Request walk: served_model.py -> [batching.py: queue, stack, forward pass, split]
There is no batch window: an idle model runs a request at once, a busy one fills its passes. A pass is limited in rows;
a larger request is split, and one whose rows the net cannot take fails by itself.

Ray Serve's queue (`serve.batch`) does not split requests: with a `batch_size_fn` it refuses one that is larger than a
pass, recounts the whole batch at each arrival, and puts what does not fit behind later requests. It does not know
sequence lengths, and takes a fifth of a small model's time per request.
"""
# Shapes: B rows of one request, N rows of a pass, T time steps (or tokens) of the longest row.

import asyncio
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from deployments.errors import InferenceFailed, Unavailable
from deployments.models.torch_internals import remove_input_checks
from deployments.protocols.arrays import Array, Outputs, Rows

# A full pass shorter than this runs on the event loop: a thread switch there and back costs about as much (measured
# 0.1 ms and more under load), and a loop that is blocked for so little serves its other requests as well.
MAX_INLINE_PASS_S = 0.5e-3

# This share of the best throughput is enough: more rows would add latency for little.
MIN_THROUGHPUT_SHARE = 0.98

# A pass shorter than this gets more rows where that costs no throughput. Between two passes requests are decoded and
# responses encoded, about a millisecond of other work, whose code and data evict the net's from the caches.
MIN_PASS_S = 20e-3

# Maximum share of padding in a pass; a row that would bring more waits for rows of its length.
MAX_PADDING_SHARE = 0.2

# A request's body is read-only memory, and the net does not write to its input.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class _PendingRequest:
    """A request on its way: its number of rows, and the outputs of those that are through."""

    __slots__ = ("future", "parts", "remaining_rows", "rows")

    def __init__(self, future: "asyncio.Future[Outputs]", rows: int) -> None:
        self.future, self.rows, self.remaining_rows = future, rows, rows
        self.parts: list[tuple[slice | Array, Outputs]] = []


@dataclass(slots=True, eq=False)
class _Chunk:
    """Rows of one request that go through the net in one pass.

    Attributes:
        request: the request.
        x: shape (B, ...) or (B, T, ...).
        row_index: which rows of the request these are.
        lengths: int64 (B,), time steps of each row without padding; None where all have T.
    """

    request: _PendingRequest
    x: Array
    row_index: slice | Array
    lengths: Array | None = None

    @property
    def time_steps(self) -> int:
        """Time steps of all rows, without padding."""
        return len(self.x) * self.x.shape[1] if self.lengths is None else int(self.lengths.sum())

    def split(self, rows: int) -> tuple["_Chunk", "_Chunk"]:
        """Split off the first rows."""
        index, lengths = self.row_index, self.lengths
        if isinstance(index, slice):
            middle = index.start + rows
            first_index: slice | Array = slice(index.start, middle)
            rest_index: slice | Array = slice(middle, index.stop)
        else:
            first_index, rest_index = index[:rows], index[rows:]
        first = _Chunk(self.request, self.x[:rows], first_index, None if lengths is None else lengths[:rows])
        rest = _Chunk(self.request, self.x[rows:], rest_index, None if lengths is None else lengths[rows:])
        return first, rest


@dataclass
class BatchStatistics:
    """Totals since the start: passes, rows, time steps with padding, and how many of those are padding."""

    passes: int = 0
    rows: int = 0
    time_steps: int = 0
    padding: int = 0


class Batcher:
    """One net on one device; a single forward pass at a time.

    Rows with a time axis (texts, series) are padded to the longest of their pass; the net masks the padding. Rows of
    similar length share a pass, and outputs with a time axis are cut back to the length of each request's rows.
    """

    def __init__(
        self,
        net: nn.Module,
        device: str,
        max_rows: int,
        padding_value: float | None,
        has_time_axis: tuple[bool, ...],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make a batcher.

        Args:
            net: takes one tensor; its input checks are removed.
            device: of the net.
            max_rows: of one pass.
            padding_value: of the padding; None where rows have no time axis.
            has_time_axis: whether each output has one.
            dtype: of the net's input where numpy has no such type (bfloat16); None for that of the rows.
        """
        self._net, self._device, self._max_rows, self._pass_rows = net, device, max_rows, max_rows
        self._padding_value, self._has_time_axis, self._dtype = padding_value, has_time_axis, dtype
        remove_input_checks(net)
        self.statistics = BatchStatistics()
        self._queue: deque[_Chunk] = deque()
        self._is_running = False
        self._inline = False
        # The event loop fills the queue, the thread empties it.
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "forward")

    def warm_up(self, rows: Rows) -> None:
        """Time passes of one example row in every size, and choose the rows per pass and where passes run.

        More rows per pass make every caller wait longer; once the device is busy they no longer raise throughput.

        Args:
            rows: of the bundle's example; the first is used.
        """
        x = self._pad(rows) if isinstance(rows, list) else rows
        x = self._pad_time_axis(x[:1])
        durations_s: dict[int, float] = {}
        best = size = 1
        while size <= self._max_rows and (size <= 4 * best or max(durations_s.values()) < MIN_PASS_S):
            batch = np.repeat(x, size, axis=0)
            self._forward(batch)
            durations_s[size] = self._time_pass(batch)
            best = min(durations_s, key=lambda each: durations_s[each] / each)
            # Powers of two, and the maximum.
            size = size * 2 if size == self._max_rows else min(size * 2, self._max_rows)
        # Two more rounds over all sizes: the start of another replica, which lasts seconds, slows them all alike.
        for each in [*durations_s, *durations_s]:
            durations_s[each] = min(durations_s[each], self._time_pass(np.repeat(x, each, axis=0)))
        self._pass_rows = _choose_pass_rows(durations_s)
        self._inline = durations_s[self._pass_rows] < MAX_INLINE_PASS_S

    def _time_pass(self, batch: Array) -> float:
        start = perf_counter()
        self._forward(batch)
        return perf_counter() - start

    async def forward(self, rows: Rows) -> Outputs:
        """Run rows through the net, together with those of other requests.

        Args:
            rows: of one request, B of them.

        Returns:
            The net's outputs, each of shape (B, ...), or (B, T, ...) with T the length of the request's longest row.

        Raises:
            InferenceFailed: the net raises for these rows.
            Unavailable: they do not fit into the device's memory now.
        """
        loop = asyncio.get_running_loop()
        request = _PendingRequest(loop.create_future(), len(rows))
        with self._lock:
            if isinstance(rows, list):
                self._queue.extend(self._split_by_length(request, rows))
            else:
                self._queue.append(_Chunk(request, rows, slice(0, len(rows))))
            is_idle, self._is_running = not self._is_running, True
        if is_idle:
            if self._inline:
                # Not at once: other tasks that are ready may add rows first.
                loop.call_soon(self._run_inline_pass, loop)
            else:
                self._thread.submit(self._run_passes, loop)
        return await request.future

    def _split_by_length(self, request: _PendingRequest, rows: list[Array]) -> Iterator[_Chunk]:
        """Sort rows of unequal length into chunks of similar length."""
        lengths = np.array([len(row) for row in rows])
        order = lengths.argsort(kind="stable")[::-1]
        start = time_steps = 0
        for end, row in enumerate(order):
            longest, count = lengths[order[start]], end - start + 1
            if count > self._pass_rows or _exceeds_padding_share(time_steps + lengths[row], count * longest):
                yield self._make_chunk(request, rows, order[start:end], lengths)
                start, time_steps = end, 0
            time_steps += lengths[row]
        yield self._make_chunk(request, rows, order[start:], lengths)

    def _make_chunk(self, request: _PendingRequest, rows: list[Array], row_index: Array, lengths: Array) -> _Chunk:
        x = self._pad([rows[row] for row in row_index])
        if len(row_index) == len(rows) == 1:
            return _Chunk(request, x, slice(0, 1))
        return _Chunk(request, x, row_index, lengths[row_index])

    def _pad(self, rows: Sequence[Array]) -> Array:
        """Stack rows (T_i, ...) to (N, T, ...)."""
        x = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), self._padding_value, rows[0].dtype)
        for padded, row in zip(x, rows, strict=True):
            padded[: len(row)] = row
        return x

    def _take_batch(self) -> list[_Chunk]:
        """Take the oldest chunk, and later ones that fit: into the pass, and beside rows of its length."""
        batch: list[_Chunk] = []
        skipped: list[_Chunk] = []
        rows = time_steps = longest = 0
        while self._queue and rows < self._pass_rows:
            chunk = self._queue.popleft()
            if chunk.request.future.done():
                continue  # its caller has left, or another chunk of it failed
            rest = None
            if len(chunk.x) > self._pass_rows - rows:
                chunk, rest = chunk.split(self._pass_rows - rows)
            if self._padding_value is not None:
                new_longest = max(longest, chunk.x.shape[1])
                padded = (rows + len(chunk.x)) * new_longest
                if batch and _exceeds_padding_share(time_steps + chunk.time_steps, padded):
                    skipped += [chunk] if rest is None else [chunk, rest]
                    continue
                time_steps, longest = time_steps + chunk.time_steps, new_longest
            if rest is not None:
                # Behind later chunks: a large request does not hold up small ones.
                self._queue.append(rest)
            rows += len(chunk.x)
            batch.append(chunk)
        self._queue.extendleft(reversed(skipped))
        if batch:
            self.statistics.passes += 1
            self.statistics.rows += rows
            self.statistics.time_steps += rows * longest
            self.statistics.padding += rows * longest - time_steps
        else:
            self._is_running = False
        return batch

    def _run_inline_pass(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the event loop: one pass, and the next one later, so that other tasks run between them."""
        with self._lock:
            batch = self._take_batch()
        if batch:
            _resolve_futures(batch, self._run_batch(batch))
            loop.call_soon(self._run_inline_pass, loop)

    def _run_passes(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: pass after pass while the queue has rows; the net does not wait for encoding."""
        while True:
            with self._lock:
                batch = self._take_batch()
            if not batch:
                return
            loop.call_soon_threadsafe(_resolve_futures, batch, self._run_batch(batch))

    def _run_batch(self, batch: list[_Chunk]) -> list[Outputs | Exception]:
        """Run a batch, and split the outputs by chunk; where the net raises, run each chunk by itself."""
        try:
            y_N = self._forward(self._stack(batch))
        except Exception as error:
            if len(batch) > 1:
                return [self._run_batch([chunk])[0] for chunk in batch]
            if isinstance(error, torch.OutOfMemoryError):
                return [Unavailable("the device has no memory left for this request; send fewer rows, or try again")]
            reason = str(error).strip().partition("\n")[0]
            return [InferenceFailed(f"the net fails for these rows: {type(error).__name__}: {reason}; fix the input")]
        if len(batch) == 1 and not any(self._has_time_axis):
            return [y_N]
        outputs: list[Outputs | Exception] = []
        start = 0
        for chunk in batch:
            rows = slice(start, start := start + len(chunk.x))
            outputs.append(
                tuple(
                    y[rows, : chunk.x.shape[1]] if has_time_axis else y[rows]
                    for y, has_time_axis in zip(y_N, self._has_time_axis, strict=True)
                )
            )
        return outputs

    def _stack(self, batch: list[_Chunk]) -> Array:
        if len(batch) == 1:
            return self._pad_time_axis(batch[0].x)
        if self._padding_value is None:
            return np.concatenate([chunk.x for chunk in batch])
        return self._pad_time_axis(self._pad([row for chunk in batch for row in chunk.x]))

    def _pad_time_axis(self, x: Array) -> Array:
        """Pad to two time steps, the minimum of an exported net."""
        if self._padding_value is None or x.shape[1] >= 2:
            return x
        return np.pad(x, ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2)), constant_values=self._padding_value)

    def _forward(self, x_N: Array) -> Outputs:
        with torch.inference_mode():
            y = self._net(torch.from_numpy(x_N).to(self._device, self._dtype))
            return tuple(_to_numpy(each.cpu()) for each in (y if isinstance(y, tuple) else (y,)))


def _to_numpy(y: Tensor) -> Array:
    array: Array = (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    return array


def _choose_pass_rows(durations_s: dict[int, float]) -> int:
    """Choose the rows per pass from the duration of each size: enough throughput, and long where that costs none."""
    best_row_s = min(duration_s / rows for rows, duration_s in durations_s.items())
    efficient = [
        rows for rows, duration_s in durations_s.items() if best_row_s >= MIN_THROUGHPUT_SHARE * duration_s / rows
    ]
    return max((rows for rows in efficient if durations_s[rows] <= MIN_PASS_S), default=efficient[0])


def _exceeds_padding_share(time_steps: int, padded: int) -> bool:
    return time_steps < (1 - MAX_PADDING_SHARE) * padded


def _resolve_futures(batch: list[_Chunk], outputs: list[Outputs | Exception]) -> None:
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


def _reassemble(request: _PendingRequest) -> Outputs:
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
