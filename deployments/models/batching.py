"""Batching: rows that arrived during one forward pass go through the net together in the next.

Request walk: served_model.py -> [batching.py] -> admission.py, padding.py, chunk_queue.py
    -> [batching.py: stack, forward pass, split] -> chunks.py
There is no batch window: an idle model runs a request at once, a busy one fills its passes. A pass is limited in rows;
a larger request is split, and one whose rows the net cannot take fails by itself. A request that cannot be answered in
time is refused at once, and what nobody waits for any more is not computed.

Ray Serve's queue (`serve.batch`) does not split requests: with a `batch_size_fn` it refuses one that is larger than a
pass, recounts the whole batch at each arrival, and puts what does not fit behind later requests. It does not know
sequence lengths, and takes a fifth of a small model's time per request.
"""
# Shapes: B rows of one request, N rows of a pass, T time steps (or tokens) of the longest row.

import asyncio
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from deployments.access.usage.request_usage import CURRENT_USAGE, RequestUsage
from deployments.errors import DeviceFailed, ModelFailed
from deployments.models.admission import Admission, PassEstimator, fail_late, refuse_late
from deployments.models.batch_statistics import BatchStatistics
from deployments.models.chunk_queue import Batch, ChunkQueue
from deployments.models.chunks import Chunk, PendingRequest, RequestTiming, finish_requests, split_outputs
from deployments.models.padding import pad_rows, pad_time_axis, split_by_length
from deployments.models.pass_failures import check_outputs, describe_failure, is_device_error
from deployments.models.pass_timing import time_passes
from deployments.protocols.arrays import Array, Outputs, Rows
from deployments.scaling.profile import PassTiming, choose_pass_rows
from deployments.scaling.report import PassReport
from deployments.server.scheduling import Scheduling
from training.bundle.program.interpreter import ProgramModule

# A full pass shorter than this runs on the event loop: a thread switch there and back costs about as much (measured
# 0.1 ms and more under load), and a loop that is blocked for so little serves its other requests as well.
MAX_INLINE_PASS_S = 0.5e-3
# A pass in a thread needs Python's lock again after each of its operators, and the event loop gives it back to who
# waits for it after so long; with Python's 5 ms, a net of 500 operators did a third of its work while the loop refused
# what was too much (tests/benchmarks/overload.py).
SWITCH_INTERVAL_S = 0.1e-3


_NO_BATCH = Batch()

# A request's body is read-only memory, and the net does not write to its input.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


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
        request_timeout_s: float = math.inf,
    ) -> None:
        """Make a batcher.

        Args:
            net: takes one tensor; its input checks are removed.
            device: of the net.
            max_rows: of one pass.
            padding_value: of the padding; None where rows have no time axis.
            has_time_axis: whether each output has one.
            dtype: of the net's input where numpy has no such type (bfloat16); None for that of the rows.
            request_timeout_s: what a request without a deadline of its own has.
        """
        self._net, self._device, self._max_rows, self._pass_rows = net, device, max_rows, max_rows
        self._padding_value, self._has_time_axis, self._dtype = padding_value, has_time_axis, dtype
        if isinstance(net, ProgramModule):
            net.disable_input_checks()
        self.statistics = BatchStatistics()
        self._queue = ChunkQueue(padding_value is not None)
        self._request_timeout_s = request_timeout_s
        # Made by the warm-up, whose own passes are not those of requests.
        self._admission: Admission | None = None
        self._is_running = False
        self._inline = False
        self._example: Array | None = None
        self._pass_started_s: float | None = None
        # Of the pass that runs or ran last; and when it ended, where another follows it.
        self._running_rows = 0
        self._last_end_s: float | None = None
        # Of passes that succeeded: in all, and at the last health check.
        self._succeeded = self._succeeded_at_check = 0
        self._device_error: DeviceFailed | None = None
        # The event loop fills the queue, the thread empties it.
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "forward")

    def warm_up(
        self,
        rows: Rows,
        known: Sequence[PassTiming] = (),
        *,
        budget_s: float = 0.0,
        slo_p99_s: float | None = None,
    ) -> tuple[PassTiming, ...]:
        """Time passes of one example row in every size, and choose the rows per pass and where passes run.

        More rows per pass make every caller wait longer; once the device is busy they no longer raise throughput.

        Args:
            rows: of the bundle's example; the first is used.
            known: timings of an earlier warm-up on such a processor; then nothing is timed.
            budget_s: seconds for further rounds of timing, whose number decides how fine the percentiles are.
            slo_p99_s: goal for the 99th percentile of a request's latency; see choose_pass_rows.

        Returns:
            The timings, ascending by rows.
        """
        x = pad_rows(rows, self._padding_value) if isinstance(rows, list) else rows
        x = self._example = pad_time_axis(x[:1], self._padding_value)
        passes = tuple(known) or time_passes(self._forward, x, self._max_rows, budget_s)
        self._pass_rows = choose_pass_rows(passes, slo_p99_s)
        durations_s = {each.rows: each.min_s for each in passes}
        self._inline = durations_s[self._pass_rows] < MAX_INLINE_PASS_S
        if not self._inline:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        if known:
            # A device's first pass of a size takes longer.
            for size in {1, self._pass_rows}:
                self._forward(np.repeat(x, size, axis=0))
        estimator = PassEstimator(durations_s, self._pass_rows)
        self._admission = Admission(estimator, self._queue, self._request_timeout_s, slo_p99_s)
        return passes

    def run_rows(self, rows: Rows) -> Iterator[Outputs]:
        """Run each row by itself, outside of the queue; yields its outputs, of its own length where they have one."""
        for row in rows:
            outputs = self._forward(pad_time_axis(np.asarray(row)[None], self._padding_value))
            yield tuple(
                y[:, : len(row)] if has_time_axis else y
                for y, has_time_axis in zip(outputs, self._has_time_axis, strict=True)
            )

    def check_admission(self, scheduling: Scheduling | None, rows: int = 1) -> None:
        """Check that a request can be answered in time, before it costs anything.

        Args:
            scheduling: of the request; None without a deadline or a priority.
            rows: of the request; 1 where they are not decoded yet.

        Raises:
            QueueFull: it cannot, after those that wait.
            DeadlineExceeded: it cannot, although nothing waits; or its deadline is past.
        """
        admission = self._admission
        if admission is None or (scheduling is None and self._queue.rows + rows <= admission.max_rows):
            return
        running_s = None
        if self._is_running:
            elapsed_s = perf_counter() - (self._pass_started_s or perf_counter())
            running_s = max(0.0, admission.estimator.estimate_pass_s(self._running_rows) - elapsed_s)
        admission.check(rows, scheduling, running_s)

    async def forward(
        self, rows: Rows, scheduling: Scheduling | None = None, timing: RequestTiming | None = None
    ) -> Outputs:
        """Run rows through the net, together with those of other requests.

        Args:
            rows: of one request, B of them.
            scheduling: its deadline and priority, if it has one.
            timing: is filled in.

        Returns:
            The net's outputs, each of shape (B, ...), or (B, T, ...) with T the length of the request's longest row.

        Raises:
            InferenceFailed: the net raises for these rows, and not for others.
            Unavailable: they do not fit into the device's memory now.
            ModelFailed: the net fails for all rows.
            DeviceFailed: its device does.
            QueueFull: the rows that wait take longer than it may.
            DeadlineExceeded: its deadline is past, or would be if it were alone.
        """
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        request = self.submit(rows, partial(_settle, future), scheduling, timing, CURRENT_USAGE.get())
        try:
            return await future
        finally:
            request.abandon()

    def submit(
        self,
        rows: Rows,
        on_done: Callable[[Outputs | Exception], None],
        scheduling: Scheduling | None = None,
        timing: RequestTiming | None = None,
        usage: RequestUsage | None = None,
    ) -> PendingRequest:
        """Do as `forward`, without a future: a small net answers sooner than the event loop wakes who awaits one.

        Args:
            rows: of one request, B of them.
            on_done: called by the event loop, later, with what `forward` returns or raises.
            scheduling: its deadline and priority, if it has one.
            timing: is filled in.
            usage: its compute seconds are added to.

        Raises:
            QueueFull: the rows that wait take longer than it may.
            DeadlineExceeded: its deadline is past, or would be if it were alone.
        """
        count = len(rows)
        self.check_admission(scheduling, count)
        request = PendingRequest(count, on_done, scheduling, timing, usage)
        if isinstance(rows, list):
            self._enqueue(request, split_by_length(request, rows, self._pass_rows, self._padding_value))
        else:
            self._enqueue(request, (Chunk(request, rows, slice(0, count)),))
        if request.deadline_s != math.inf:
            remaining_s = request.deadline_s - perf_counter()
            request.timer = asyncio.get_running_loop().call_later(remaining_s, fail_late, request)
        return request

    def report_passes(self) -> PassReport:
        """What it has done, and has to do."""
        queue, statistics = self._queue, self.statistics
        return PassReport(
            queue.rows,
            statistics.passes,
            statistics.rows,
            statistics.busy_s,
            refused=self._admission.refused if self._admission else 0,
            late_rows=queue.late_rows,
            abandoned_rows=queue.abandoned_rows,
            time_steps=statistics.time_steps,
            padding=statistics.padding,
            waits=tuple(statistics.waits.counts),
            wait_s=statistics.waits.sum_s,
            durations=tuple(statistics.durations.counts),
            pass_rows=dict(statistics.pass_rows),
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
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        request = PendingRequest(1, partial(_settle, future))
        self._enqueue(request, (Chunk(request, self._example, slice(0, 1)),), first=True)
        await future
        self._succeeded_at_check = self._succeeded

    def _enqueue(self, request: PendingRequest, chunks: Iterable[Chunk], *, first: bool = False) -> None:
        """Queue a request's chunks, and start passes where none run."""
        with self._lock:
            self._queue.extend(chunks, request, first=first)
            is_idle, self._is_running = not self._is_running, True
        if is_idle:
            loop = asyncio.get_running_loop()
            if self._inline:
                # Not at once: other tasks that are ready may add rows first.
                loop.call_soon(self._run_inline_pass, loop)
            else:
                self._thread.submit(self._run_passes, loop)

    def _take_batch(self, loop: asyncio.AbstractEventLoop) -> Batch:
        """Take the chunks of the next pass; without any, passes stop."""
        with self._lock:
            if not self._queue.rows:
                self._is_running, self._last_end_s = False, None
                return _NO_BATCH
        now_s = perf_counter()
        end_s = now_s
        estimator = self._admission.estimator if self._admission else None
        if estimator is not None and self._last_end_s is not None:
            end_s += estimator.estimate_pass_s(min(self._queue.rows, self._pass_rows))
        with self._lock:
            batch = self._queue.take(self._pass_rows, end_s)
            if batch.chunks:
                self._running_rows = batch.rows
                self._pass_started_s = now_s
            else:
                self._is_running, self._last_end_s = False, None
        if batch.late:
            wait_s = 0.0 if estimator is None else estimator.estimate_wait_s(self._queue.rows + batch.rows)
            loop.call_soon_threadsafe(refuse_late, batch.late, wait_s)
        return batch

    def _run_inline_pass(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the event loop: one pass, and the next one later, so that other tasks run between them."""
        batch = self._take_batch(loop)
        if batch.chunks:
            outputs = self._run_batch(batch)
            loop.call_soon(self._run_inline_pass, loop)
            finish_requests(batch.chunks, outputs)

    def _run_passes(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: pass after pass while the queue has rows; the net does not wait for encoding."""
        while True:
            batch = self._take_batch(loop)
            if not batch.chunks:
                return
            loop.call_soon_threadsafe(finish_requests, batch.chunks, self._run_batch(batch))

    def _run_batch(self, batch: Batch) -> list[Outputs | Exception]:
        """Run a batch, and count the time that it takes. Never raises."""
        started_s = perf_counter()
        outputs = self._try_batch(batch.chunks)
        end_s = perf_counter()
        self.statistics.record_pass(batch, started_s, end_s)
        if self._admission is not None:
            # From the end of the pass before, where one was: what comes between two passes takes its time, too.
            self._admission.record_pass(batch.rows, end_s - (self._last_end_s or started_s), end_s)
        self._last_end_s = end_s
        return outputs

    def _try_batch(self, batch: list[Chunk]) -> list[Outputs | Exception]:
        """Run a batch, and split the outputs by chunk; where that fails, run each chunk by itself. Never raises."""
        self._pass_started_s = perf_counter()
        try:
            outputs = split_outputs(batch, self._forward(self._stack(batch)), self._has_time_axis)
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

    def _stack(self, batch: list[Chunk]) -> Array:
        if len(batch) == 1:
            return pad_time_axis(batch[0].x, self._padding_value)
        if self._padding_value is None:
            return np.concatenate([chunk.x for chunk in batch])
        x = pad_rows([row for chunk in batch for row in chunk.x], self._padding_value)
        return pad_time_axis(x, self._padding_value)

    def _forward(self, x_N: Array) -> Outputs:
        with torch.inference_mode():
            y = self._net(torch.from_numpy(x_N).to(self._device, self._dtype))
            y_N = y if isinstance(y, tuple) else (y,)
            check_outputs(y_N, len(x_N), len(self._has_time_axis))
            return tuple(_to_numpy(each.cpu()) for each in y_N)


def _settle(future: "asyncio.Future[Outputs]", result: Outputs | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _to_numpy(y: Tensor) -> Array:
    array: Array = (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    return array
