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
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from deployments.errors import DeviceFailed, ModelFailed
from deployments.models.chunks import Chunk, PassTiming, PendingRequest, record_pass, resolve_futures
from deployments.models.pass_failures import check_outputs, describe_failure, is_device_error
from deployments.protocols.arrays import Array, Outputs, Rows
from deployments.scaling.report import LatencyHistogram, PassReport
from training.bundle.program.interpreter import ProgramModule

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


@dataclass
class BatchStatistics:
    """Totals since the start: passes, rows, time steps with padding, how many of those are padding, and seconds.

    Histograms are of the passes' seconds and of each request's in the queue; pass_rows counts passes by their rows.
    """

    passes: int = 0
    rows: int = 0
    time_steps: int = 0
    padding: int = 0
    busy_s: float = 0.0
    durations: LatencyHistogram = field(default_factory=LatencyHistogram)
    waits: LatencyHistogram = field(default_factory=LatencyHistogram)
    pass_rows: Counter[int] = field(default_factory=Counter)


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
        if isinstance(net, ProgramModule):
            net.disable_input_checks()
        self.statistics = BatchStatistics()
        self._queue: deque[Chunk] = deque()
        self._is_running = False
        self._inline = False
        self._example: Array | None = None
        self._pass_started_s: float | None = None
        # Of passes that succeeded: in all, and at the last health check.
        self._succeeded = self._succeeded_at_check = 0
        self._device_error: DeviceFailed | None = None
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
        x = self._example = self._pad_time_axis(x[:1])
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

    async def forward(self, rows: Rows, timing: PassTiming | None = None) -> Outputs:
        """Run rows through the net, together with those of other requests.

        Args:
            rows: of one request, B of them.
            timing: is filled in.

        Returns:
            The net's outputs, each of shape (B, ...), or (B, T, ...) with T the length of the request's longest row.

        Raises:
            InferenceFailed: the net raises for these rows, and not for others.
            Unavailable: they do not fit into the device's memory now.
            ModelFailed: the net fails for all rows.
            DeviceFailed: its device does.
        """
        request = PendingRequest(asyncio.get_running_loop().create_future(), len(rows), timing)
        if isinstance(rows, list):
            self._enqueue(self._split_by_length(request, rows))
        else:
            self._enqueue([Chunk(request, rows, slice(0, len(rows)))])
        return await request.future

    def report_passes(self) -> PassReport:
        """What it has done, and has to do."""
        with self._lock:
            queued_rows = sum(len(chunk.x) for chunk in self._queue)
        statistics = self.statistics
        return PassReport(
            queued_rows,
            statistics.passes,
            statistics.rows,
            statistics.busy_s,
            statistics.time_steps,
            statistics.padding,
            tuple(statistics.waits.counts),
            statistics.waits.sum_s,
            tuple(statistics.durations.counts),
            dict(statistics.pass_rows),
        )

    async def check_health(self, max_pass_s: float) -> None:
        """Check that passes succeed: one has since the last check, or the example's does now, before all that waits.

        Args:
            max_pass_s: how long a pass may last; no caller waits longer for it.

        Raises:
            ModelFailed: the net fails, or a pass has not ended.
            DeviceFailed: the device does.
        """
        if self._device_error is not None:
            raise self._device_error
        started_s = self._pass_started_s
        if started_s is not None and perf_counter() - started_s > max_pass_s:
            raise ModelFailed(f"a forward pass has not ended after {max_pass_s:g} s")
        has_progressed = self._succeeded > self._succeeded_at_check
        self._succeeded_at_check = self._succeeded
        if has_progressed or self._example is None:
            return
        request = PendingRequest(asyncio.get_running_loop().create_future(), 1)
        self._enqueue([Chunk(request, self._example, slice(0, 1))], first=True)
        await request.future
        self._succeeded_at_check = self._succeeded

    def _enqueue(self, chunks: Iterable[Chunk], *, first: bool = False) -> None:
        """Queue chunks, and start passes where none run."""
        loop = asyncio.get_running_loop()
        with self._lock:
            (self._queue.extendleft if first else self._queue.extend)(chunks)
            is_idle, self._is_running = not self._is_running, True
        if is_idle:
            if self._inline:
                # Not at once: other tasks that are ready may add rows first.
                loop.call_soon(self._run_inline_pass, loop)
            else:
                self._thread.submit(self._run_passes, loop)

    def _split_by_length(self, request: PendingRequest, rows: list[Array]) -> Iterator[Chunk]:
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

    def _make_chunk(self, request: PendingRequest, rows: list[Array], row_index: Array, lengths: Array) -> Chunk:
        x = self._pad([rows[row] for row in row_index])
        if len(row_index) == len(rows) == 1:
            return Chunk(request, x, slice(0, 1))
        return Chunk(request, x, row_index, lengths[row_index])

    def _pad(self, rows: Sequence[Array]) -> Array:
        """Stack rows (T_i, ...) to (N, T, ...)."""
        x = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), self._padding_value, rows[0].dtype)
        for padded, row in zip(x, rows, strict=True):
            padded[: len(row)] = row
        return x

    def _take_batch(self) -> list[Chunk]:
        """Take the oldest chunk, and later ones that fit: into the pass, and beside rows of its length."""
        batch: list[Chunk] = []
        skipped: list[Chunk] = []
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
            self.statistics.pass_rows[rows] += 1
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
            resolve_futures(batch, self._run_batch(batch))
            loop.call_soon(self._run_inline_pass, loop)

    def _run_passes(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: pass after pass while the queue has rows; the net does not wait for encoding."""
        while True:
            with self._lock:
                batch = self._take_batch()
            if not batch:
                return
            loop.call_soon_threadsafe(resolve_futures, batch, self._run_batch(batch))

    def _run_batch(self, batch: list[Chunk]) -> list[Outputs | Exception]:
        """Run a batch, and count the time that it takes. Never raises."""
        started_s = perf_counter()
        outputs = self._try_batch(batch)
        ended_s = perf_counter()
        self.statistics.busy_s += ended_s - started_s
        self.statistics.durations.record(ended_s - started_s)
        record_pass(batch, started_s, ended_s, self.statistics.waits)
        return outputs

    def _try_batch(self, batch: list[Chunk]) -> list[Outputs | Exception]:
        """Run a batch, and split the outputs by chunk; where that fails, run each chunk by itself. Never raises."""
        self._pass_started_s = perf_counter()
        try:
            outputs = self._split_outputs(batch, self._forward(self._stack(batch)))
            self._succeeded += 1
            return outputs
        except BaseException as error:  # a net may even raise SystemExit
            if len(batch) > 1 and not is_device_error(error):
                return [self._try_batch([chunk])[0] for chunk in batch]
            failure = describe_failure(error, self._run_example)
            if isinstance(failure, DeviceFailed):
                # The process cannot use the device again, says CUDA's documentation of its sticky errors.
                self._device_error = failure
            return [failure] * len(batch)
        finally:
            self._pass_started_s = None

    def _run_example(self) -> None:
        if self._example is not None:
            self._forward(self._example)

    def _split_outputs(self, batch: list[Chunk], y_N: Outputs) -> list[Outputs | Exception]:
        if len(batch) == 1 and not any(self._has_time_axis):
            return [y_N]
        outputs: list[Outputs | Exception] = []
        start = 0
        if len(y_N) == 1 and not self._has_time_axis[0]:
            (y,) = y_N
            for chunk in batch:
                outputs.append((y[start : (start := start + len(chunk.x))],))
            return outputs
        for chunk in batch:
            rows = slice(start, start := start + len(chunk.x))
            outputs.append(
                tuple(
                    y[rows, : chunk.x.shape[1]] if has_time_axis else y[rows]
                    for y, has_time_axis in zip(y_N, self._has_time_axis, strict=True)
                )
            )
        return outputs

    def _stack(self, batch: list[Chunk]) -> Array:
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
            y_N = y if isinstance(y, tuple) else (y,)
            check_outputs(y_N, len(x_N), len(self._has_time_axis))
            return tuple(_to_numpy(each.cpu()) for each in y_N)


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
