"""Batching: what arrived while the last forward pass ran goes through the next one together.

Request walk: codec -> [batching.py: queue, stack] -> the net -> [batching.py: cut] -> codec
No waiting: an idle model answers at once, a busy one fills its passes. A pass is counted in rows; a request of more is
cut, and one whose rows cannot go through the net fails alone.

Ray Serve's own queue (`serve.batch`) takes requests whole: with a `batch_size_fn` it refuses one that is larger than a
pass, counts the whole batch anew at each arrival, and puts what does not fit behind what came later. It has no notion
of length, and costs a fifth of a small model's time for each request. So this is ours.
"""
# Shapes: B rows of one request, N rows of a pass, T steps of the longest row.

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
from deployments.protocols.arrays import Array, Outputs, Rows

# A full pass shorter than this runs on the event loop: handing it to a thread and back costs about as much (measured
# 0.1 ms and more under load), and a loop that stalls for so little serves its other requests as well.
MAX_INLINE_PASS_S = 0.5e-3

# Of the best throughput so much is enough: what more rows would bring above it is not worth the wait.
MIN_THROUGHPUT_SHARE = 0.98

# A pass shorter than this is made longer where that costs no throughput. Between two passes answers go out and requests
# come in, about a millisecond of other work whose code and data push the net's out of the caches.
MIN_PASS_S = 20e-3

# Of a pass's steps at most so many fill up shorter rows; a row that would bring more waits for its like.
MAX_PADDING_SHARE = 0.2

# What came in a request's body is read-only memory, and the net does not write to its input.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class _Request:
    """One caller's rows: how many there are, and what the net gave to some of them."""

    __slots__ = ("future", "left", "parts", "rows")

    def __init__(self, future: "asyncio.Future[Outputs]", rows: int) -> None:
        self.future, self.rows, self.left = future, rows, rows
        self.parts: list[tuple[slice | Array, Outputs]] = []


@dataclass(slots=True, eq=False)
class _Chunk:
    """Rows of one request that go through the net in one pass.

    Attributes:
        request: whose they are.
        x: shape (B, ...) or (B, T, ...).
        places: which rows of the request these are.
        lengths: int64 (B,), steps of each row without what fills up; None where all are T.
    """

    request: _Request
    x: Array
    row_index: slice | Array
    lengths: Array | None = None

    @property
    def time_steps(self) -> int:
        """Steps of all rows, without what fills up."""
        return len(self.x) * self.x.shape[1] if self.lengths is None else int(self.lengths.sum())

    def split(self, rows: int) -> tuple["_Chunk", "_Chunk"]:
        """The first so many rows, and the rest."""
        if isinstance(self.row_index, slice):
            middle = self.row_index.start + rows
            places: tuple[slice | Array, ...] = slice(self.row_index.start, middle), slice(middle, self.row_index.stop)
        else:
            places = self.row_index[:rows], self.row_index[rows:]
        lengths = (None, None) if self.lengths is None else (self.lengths[:rows], self.lengths[rows:])
        first, rest = zip((self.x[:rows], self.x[rows:]), places, lengths, strict=True)
        return _Chunk(self.request, *first), _Chunk(self.request, *rest)


@dataclass
class BatchStatistics:
    """What went through the net so far: passes, rows, and of their steps how many there are and how many fill up."""

    passes: int = 0
    rows: int = 0
    time_steps: int = 0
    padding: int = 0


class Batcher:
    """One net on one device; a single forward pass at a time.

    Rows of steps (texts, series) are filled up to the longest of their pass, which the net leaves out of account; rows
    of like length share a pass, and outputs that have steps are cut back to each request's own.
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
        """Take a net.

        Args:
            net: takes one tensor.
            device: where it is.
            max_rows: of one pass.
            padding: what fills up rows of steps; None where there are none.
            stepped: which outputs have steps.
            dtype: what rows are turned to, where numpy has no such type (bfloat16).
        """
        self._net, self._device, self._max_rows, self._pass_rows = net, device, max_rows, max_rows
        self._padding_value, self._has_time_axis, self._dtype = padding_value, has_time_axis, dtype
        # An exported program checks its input at each call, in about the time that a small net takes. The codec has
        # done so already, against the same shapes.
        net._forward_pre_hooks.clear()
        self.statistics = BatchStatistics()
        self._queue: deque[_Chunk] = deque()
        self._busy = False
        self._inline = False
        # Between the event loop, which fills the queue, and the thread, which empties it.
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "forward")

    def warm_up(self, rows: Rows) -> None:
        """Run passes of one example row, of every size that may come; decide how many rows pay and where they run.

        More rows a pass make every caller wait longer; past the size at which the device is busy they bring nothing.
        """
        x = self._pad(rows) if isinstance(rows, list) else rows
        x = self._pad_time_axis(x[:1])
        took_s: dict[int, float] = {}
        best = size = 1
        while size <= self._max_rows and (size <= 4 * best or max(took_s.values()) < MIN_PASS_S):
            batch = np.repeat(x, size, axis=0)
            self._forward(batch)
            took_s[size] = self._time_pass(batch)
            best = min(took_s, key=lambda each: took_s[each] / each)
            # Twice as many each time, and the most as well.
            size = size * 2 if size == self._max_rows else min(size * 2, self._max_rows)
        # Twice more, all sizes in turn: another replica's start or warm-up, which lasts seconds, meets them alike.
        for each in [*took_s, *took_s]:
            took_s[each] = min(took_s[each], self._time_pass(np.repeat(x, each, axis=0)))
        best = min(took_s, key=lambda each: took_s[each] / each)
        good = [each for each in took_s if took_s[best] / best >= MIN_THROUGHPUT_SHARE * took_s[each] / each]
        self._pass_rows = max((each for each in good if took_s[each] <= MIN_PASS_S), default=good[0])
        self._inline = took_s[self._pass_rows] < MAX_INLINE_PASS_S

    def _time_pass(self, batch: Array) -> float:
        start = perf_counter()
        self._forward(batch)
        return perf_counter() - start

    async def forward(self, rows: Rows) -> Outputs:
        """Pass rows through the net, together with what others sent.

        Args:
            rows: of one request, B of them.

        Returns:
            The net's outputs, each of shape (B, ...), or (B, T, ...) with T the steps of the request's longest row.

        Raises:
            NetRefused: the net raises for these rows.
            Unavailable: they do not fit into the device's memory now.
        """
        loop = asyncio.get_running_loop()
        request = _Request(loop.create_future(), len(rows))
        with self._lock:
            if isinstance(rows, list):
                self._queue.extend(self._split_rows(request, rows))
            else:
                self._queue.append(_Chunk(request, rows, slice(0, len(rows))))
            start, self._busy = not self._busy, True
        if start:
            if self._inline:
                # Not at once: what the loop has ready to run may bring more rows.
                loop.call_soon(self._pass_inline, loop)
            else:
                self._thread.submit(self._run_passes, loop)
        return await request.future

    def _split_rows(self, request: _Request, rows: list[Array]) -> Iterator[_Chunk]:
        """Sort rows of unequal length into pieces of like length."""
        lengths = np.array([len(row) for row in rows])
        order = lengths.argsort(kind="stable")[::-1]
        start = cells = 0
        for end, place in enumerate(order):
            longest, count = lengths[order[start]], end - start + 1
            if count > self._pass_rows or _exceeds_padding(cells + lengths[place], count * longest):
                yield self._make_chunk(request, rows, order[start:end], lengths)
                start, cells = end, 0
            cells += lengths[place]
        yield self._make_chunk(request, rows, order[start:], lengths)

    def _make_chunk(self, request: _Request, rows: list[Array], places: Array, lengths: Array) -> _Chunk:
        x, of_these = self._pad([rows[place] for place in places]), lengths[places]
        if len(places) == len(rows) == 1:
            return _Chunk(request, x, slice(0, 1))
        return _Chunk(request, x, places, of_these)

    def _pad(self, rows: Sequence[Array]) -> Array:
        """Stack rows (T_i, ...) to (N, T, ...)."""
        x = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), self._padding_value, rows[0].dtype)
        for row, values in zip(x, rows, strict=True):
            row[: len(values)] = values
        return x

    def _take_batch(self) -> list[_Chunk]:
        """The oldest piece, with what came after it and fits: into the pass, and beside rows of its length."""
        batch: list[_Chunk] = []
        waiting: list[_Chunk] = []
        rows = cells = steps = 0
        while self._queue and rows < self._pass_rows:
            piece = self._queue.popleft()
            if piece.request.future.done():
                continue  # its caller has gone, or another piece of it failed
            rest = None
            if len(piece.x) > self._pass_rows - rows:
                piece, rest = piece.split(self._pass_rows - rows)
            if self._padding_value is not None:
                longest = max(steps, piece.x.shape[1])
                if batch and _exceeds_padding(cells + piece.time_steps, (rows + len(piece.x)) * longest):
                    waiting += [piece] if rest is None else [piece, rest]
                    continue
                cells, steps = cells + piece.time_steps, longest
            if rest is not None:
                # Behind what came later: a large request does not hold up small ones.
                self._queue.append(rest)
            rows += len(piece.x)
            batch.append(piece)
        self._queue.extendleft(reversed(waiting))
        if batch:
            self.statistics.passes += 1
            self.statistics.rows += rows
            self.statistics.time_steps += rows * steps
            self.statistics.padding += rows * steps - cells
        else:
            self._busy = False
        return batch

    def _pass_inline(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            batch = self._take_batch()
        if batch:
            _resolve_futures(batch, self._run_batch(batch))
            loop.call_soon(self._pass_inline, loop)

    def _run_passes(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: pass after pass while anything waits, so that the net stands still for nobody's encoding."""
        while True:
            with self._lock:
                batch = self._take_batch()
            if not batch:
                return
            loop.call_soon_threadsafe(_resolve_futures, batch, self._run_batch(batch))

    def _run_batch(self, batch: list[_Chunk]) -> list[Outputs | Exception]:
        """Pass a batch through the net and cut the outputs back to its pieces; where that fails, each by itself."""
        try:
            y_N = self._forward(self._stack(batch))
        except Exception as error:
            if len(batch) > 1:
                return [self._run_batch([piece])[0] for piece in batch]
            if isinstance(error, torch.OutOfMemoryError):
                return [Unavailable("the device has no memory left for this now; send fewer rows, or try again")]
            said = str(error).strip().partition("\n")[0]
            return [InferenceFailed(f"the net fails for these rows: {type(error).__name__}: {said}; mend the input")]
        found: list[Outputs | Exception] = []
        start = 0
        for piece in batch:
            rows = slice(start, start := start + len(piece.x))
            found.append(
                y_N
                if len(batch) == 1 and not any(self._has_time_axis)
                else tuple(
                    y[rows, : piece.x.shape[1]] if stepped else y[rows]
                    for y, stepped in zip(y_N, self._has_time_axis, strict=True)
                )
            )
        return found

    def _stack(self, batch: list[_Chunk]) -> Array:
        if len(batch) == 1:
            return self._pad_time_axis(batch[0].x)
        if self._padding_value is None:
            return np.concatenate([piece.x for piece in batch])
        return self._pad_time_axis(self._pad([row for piece in batch for row in piece.x]))

    def _pad_time_axis(self, x: Array) -> Array:
        """An exported net takes two steps or more."""
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


def _exceeds_padding(cells: int, steps: int) -> bool:
    return cells < (1 - MAX_PADDING_SHARE) * steps


def _resolve_futures(batch: list[_Chunk], outputs: list[Outputs | Exception]) -> None:
    """Give each request what it asked for, once all its rows are through."""
    for piece, found in zip(batch, outputs, strict=True):
        request = piece.request
        if request.future.done():
            continue
        if isinstance(found, Exception):
            request.future.set_exception(found)
            continue
        if len(piece.x) == request.rows and isinstance(piece.row_index, slice):
            request.future.set_result(found)
            continue
        request.parts.append((piece.row_index, found))
        request.left -= len(piece.x)
        if not request.left:
            request.future.set_result(_reassemble(request))


def _reassemble(request: _Request) -> Outputs:
    """Put a request's rows back in their order."""
    whole = []
    for number, first in enumerate(request.parts[0][1]):
        found = [(places, outputs[number]) for places, outputs in request.parts]
        # Along the steps, rows of shorter pieces end in zeros.
        shape = np.max([y.shape[1:] for _, y in found], axis=0).astype(int)
        y_B = np.zeros((request.rows, *shape), first.dtype)
        for places, y in found:
            y_B[(places, *(slice(0, size) for size in y.shape[1:]))] = y
        whole.append(y_B)
    return tuple(whole)
