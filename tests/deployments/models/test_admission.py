"""Admission, priorities and deadlines of a batcher: by the rows that wait, and by how long passes take."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from deployments.errors import DeadlineExceeded, QueueFull
from deployments.models import admission
from deployments.models.admission import Admission, PassEstimator
from deployments.models.batching import Batcher
from deployments.models.chunk_queue import MAX_PASSES_WITHOUT_BATCH, ChunkQueue
from deployments.models.chunks import Chunk, PendingRequest
from deployments.protocols.arrays import Array
from deployments.server.scheduling import BATCH, INTERACTIVE, Scheduling

PASS_S = 0.02


class Slow(nn.Module):
    """Takes PASS_S for a pass of any size; records the first column of each."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = list[list[float]]()

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(x[:, 0].tolist())
        time.sleep(PASS_S)
        return x


def make_batcher(rows: int = 4, request_timeout_s: float = 30.0) -> tuple[Batcher, Slow]:
    net = Slow()
    batcher = Batcher(net, "cpu", rows, None, (False,), request_timeout_s=request_timeout_s)
    batcher.warm_up(np.zeros((1, 2), np.float32))
    batcher._inline, batcher._pass_rows = False, rows
    batcher._admission = Admission(PassEstimator({rows: PASS_S}, rows), batcher._queue, request_timeout_s)
    net.passes.clear()
    return batcher, net


def make_rows(value: float, count: int = 1) -> Array:
    return np.full((count, 2), value, np.float32)


def make_admission(rows: int = 4, request_timeout_s: float = 30.0, queued: int = 0, batch: int = 0) -> Admission:
    queue = ChunkQueue(False)
    queue.rows, queue.batch_rows = queued + batch, batch
    return Admission(PassEstimator({rows: 0.1}, rows), queue, request_timeout_s)


def test_the_wait_is_that_of_the_passes_ahead_at_the_durations_of_the_warm_up() -> None:
    estimator = PassEstimator({1: 0.01, 2: 0.01, 4: 0.02, 8: 0.08}, 8)

    assert [estimator.estimate_pass_s(rows) for rows in (1, 3, 4, 6)] == pytest.approx([0.01, 0.015, 0.02, 0.05])
    assert estimator.estimate_wait_s(0) == 0
    assert estimator.estimate_wait_s(20) == pytest.approx(2 * 0.08 + 0.02)
    assert estimator.estimate_rows(0.5) == 6 * 8


def test_the_estimate_follows_what_passes_take_now_and_an_old_one_is_forgotten() -> None:
    estimator = PassEstimator({8: 0.1}, 8)

    for step in range(60):
        estimator.record(8, 0.3, estimator.measured_s + 0.3 * (step > 0))
    assert estimator.estimate_pass_s(8) == pytest.approx(0.3, rel=0.01)
    estimator.record(8, 0.1, estimator.measured_s + 0.2)
    assert estimator.estimate_pass_s(8) == pytest.approx(0.28, rel=0.01)
    estimator.record(8, 0.1, estimator.measured_s + 60)
    assert estimator.estimate_pass_s(8) == pytest.approx(0.1)


@pytest.mark.parametrize("pause_s", [0.1, 60.0], ids=["in a stream of passes", "after a pause"])
def test_one_pass_of_a_suspended_process_does_not_refuse_what_comes_after_it(pause_s: float) -> None:
    # Found with SIGSTOP during a health check's pass: for seconds, 12,151 of 12,182 requests got a 429.
    estimator = PassEstimator({8: 0.1}, 8)
    for _ in range(20):
        estimator.record(8, 0.1, estimator.measured_s + 0.1)

    estimator.record(8, 30.0, estimator.measured_s + 30 + pause_s)
    assert estimator.estimate_pass_s(8) <= 0.2
    assert estimator.estimate_wait_s(16) < 1
    for _ in range(10):
        estimator.record(8, 0.1, estimator.measured_s + 0.1)
    assert estimator.estimate_pass_s(8) < 0.12


def test_after_a_pause_a_few_passes_show_that_they_take_longer_now() -> None:
    estimator = PassEstimator({8: 0.1}, 8)
    for step in range(4):
        estimator.record(8, 0.8, estimator.measured_s + 0.8 + (60 if step == 0 else 0))
    assert 0.6 < estimator.estimate_pass_s(8) <= 0.8


@pytest.mark.parametrize(
    ("queued", "timeout_s", "retry_after"),
    # 40 rows are ten passes, 1 s; with the running pass and its own, 1.15 s; 0.8 of the time may be planned.
    [(40, 1.5, None), (40, 1.4, 1), (40, 0.2, 1), (400, 3.0, 8), (400, 30.0, None), (4000, 60.0, 77)],
)
def test_a_request_that_rows_ahead_would_make_late_is_refused_with_the_time_to_come_back(
    queued: int, timeout_s: float, retry_after: int | None
) -> None:
    gate = make_admission(queued=queued)

    if retry_after is None:
        gate.check(1, Scheduling.after(timeout_s), 0.05)
        return
    with pytest.raises(QueueFull, match="try again in") as refused:
        gate.check(1, Scheduling.after(timeout_s), 0.05)
    assert (refused.value.status, refused.value.headers) == (429, ((b"retry-after", b"%d" % retry_after),))
    assert gate.refused == 1


def test_a_request_that_an_idle_replica_could_not_answer_in_time_is_refused_for_good_not_for_later() -> None:
    gate = make_admission()

    with pytest.raises(DeadlineExceeded, match=r"timeout of 0\.05 s: 1 rows take 0\.1 s at least"):
        gate.check(1, Scheduling.after(0.05), None)
    with pytest.raises(DeadlineExceeded, match="send fewer rows"):
        gate.check(2000, None, None)


def test_an_idle_replica_tries_what_it_has_done_in_time_before() -> None:
    gate = make_admission()
    for _ in range(100):
        gate.record_pass(4, 1.0, perf_counter())

    gate.check(1, Scheduling.after(0.2), None)
    with pytest.raises(QueueFull):
        gate.check(1, Scheduling.after(0.2), 0.0)


def test_passes_of_uneven_duration_are_planned_with_their_deviation() -> None:
    even, uneven = (PassEstimator({8: 0.1}, 8) for _ in range(2))
    for step in range(200):
        even.record(8, 0.1, even.measured_s)
        uneven.record(8, 0.05 if step % 2 else 0.15, uneven.measured_s)

    assert even.estimate_wait_s(72) == pytest.approx(0.9)
    # Nine passes with a mean deviation of 0.05 s: 0.9 + 2 * 0.05 * sqrt(9).
    assert uneven.estimate_wait_s(72) == pytest.approx(1.2, rel=0.03)


def test_an_estimate_that_is_old_does_not_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = make_admission()
    with pytest.raises(DeadlineExceeded):
        gate.check(2000, Scheduling.after(5), None)
    assert gate.refused == 1
    monkeypatch.setattr(admission, "perf_counter", lambda: perf_counter() + 2)

    gate.check(2000, Scheduling.after(5), None)

    assert gate.refused == 1


def test_batch_requests_are_refused_first() -> None:
    interactive, batch = (Scheduling.after(1.0, priority) for priority in (INTERACTIVE, BATCH))
    gate = make_admission(queued=12, batch=8)

    gate.check(1, interactive, 0.0)
    with pytest.raises(QueueFull):
        gate.check(1, batch, 0.0)
    # Without interactive rows the passes are theirs.
    make_admission(queued=0, batch=24).check(1, batch, 0.0)


def make_chunk(value: float, priority: int = INTERACTIVE, rows: int = 1, deadline_s: float = math.inf) -> Chunk:
    scheduling = Scheduling(deadline_s, priority)
    request = PendingRequest(rows, lambda result: None, scheduling)
    return Chunk(request, make_rows(value, rows), slice(0, rows))


def fill(queue: ChunkQueue, *chunks: Chunk) -> None:
    for chunk in chunks:
        queue.extend([chunk], chunk.request)


def take(queue: ChunkQueue, rows: int, end_s: float = 0.0) -> list[float]:
    return [float(chunk.x[0, 0]) for chunk in queue.take(rows, end_s).chunks]


def test_batch_rows_fill_what_interactive_rows_leave() -> None:
    queue = ChunkQueue(False)
    fill(queue, make_chunk(1, BATCH), make_chunk(2, BATCH), make_chunk(10), make_chunk(11), make_chunk(12))

    assert (queue.rows, queue.batch_rows) == (5, 2)
    assert take(queue, 2) == [10, 11]
    assert take(queue, 2) == [12, 1]
    assert take(queue, 2) == [2]
    assert (queue.rows, queue.batch_rows) == (0, 0)


def test_batch_rows_get_one_pass_of_so_many_where_interactive_rows_fill_all() -> None:
    queue = ChunkQueue(False)
    fill(queue, *(make_chunk(1, BATCH) for _ in range(4)), *(make_chunk(10) for _ in range(100)))

    taken = [take(queue, 2) for _ in range(3 * MAX_PASSES_WITHOUT_BATCH)]

    turns = [number for number, chunks in enumerate(taken) if 1 in chunks]
    assert turns == [MAX_PASSES_WITHOUT_BATCH - 1, 2 * MAX_PASSES_WITHOUT_BATCH - 1]
    assert [taken[turn] for turn in turns] == [[1, 1], [1, 1]]


def test_what_is_late_or_abandoned_is_dropped_before_the_pass_and_counted() -> None:
    queue = ChunkQueue(False)
    late, gone = make_chunk(1, rows=3, deadline_s=5.0), make_chunk(2, BATCH, rows=2)
    fill(queue, late, gone, make_chunk(3, deadline_s=7.0))
    gone.request.abandon()

    batch = queue.take(4, 6.0)

    assert [chunk.x[0, 0] for chunk in batch.chunks] == [3]
    assert batch.late == [late.request]
    assert (queue.late_rows, queue.abandoned_rows, queue.rows, queue.batch_rows) == (3, 2, 0, 0)


async def gather(*calls: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def test_under_ten_times_the_load_what_is_admitted_is_answered_in_time_and_the_rest_at_once() -> None:
    batcher, net = make_batcher()
    timeout_s, times_s = 0.5, list[tuple[str, float]]()

    async def call(number: int) -> None:
        start_s = perf_counter()
        try:
            await batcher.forward(make_rows(number), Scheduling.after(timeout_s))
            times_s.append(("answered", perf_counter() - start_s))
        except QueueFull:
            times_s.append(("refused", perf_counter() - start_s))
        except DeadlineExceeded:
            times_s.append(("late", perf_counter() - start_s))

    async def call_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(call(number))
                # 200 rows/s is what it can; 2,000 come.
                await asyncio.sleep(0.0005)

    asyncio.run(call_all())

    answered = [each for outcome, each in times_s if outcome == "answered"]
    refused = [each for outcome, each in times_s if outcome == "refused"]
    # None is late but where this process itself gets no time.
    late = len(times_s) - len(answered) - len(refused)
    assert len(times_s) == 1000
    assert len(refused) > 200
    assert late < 0.2 * len(answered)
    # Without admission the last would wait for 5 s.
    assert np.quantile(answered, 0.95) < 2 * timeout_s
    assert np.median(refused) < 0.05
    # No pass was for nothing, and they were full.
    assert len(answered) <= sum(map(len, net.passes)) <= len(answered) + late
    assert np.mean([len(each) for each in net.passes[1:-1]]) > 3
    report = batcher.report_passes()
    assert len(refused) <= report.refused + report.late_rows <= len(refused) + late


class Gate(Slow):
    """Waits until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(x[:, 0].tolist())
        self.is_open.wait(30)
        return x


def test_a_request_is_failed_at_its_deadline_while_the_pass_before_it_runs_and_is_not_computed() -> None:
    batcher, _ = make_batcher(rows=1)
    assert batcher._admission is not None
    estimator = batcher._admission.estimator
    # The estimate is as wrong as it can be: a pass takes no time.
    estimator._slowdown = estimator._least_slowdown = 1e-6
    batcher._net = net = Gate()

    async def call() -> Any:
        first = asyncio.create_task(batcher.forward(make_rows(1)))
        await asyncio.sleep(0.01)
        (error,) = await gather(batcher.forward(make_rows(2), Scheduling.after(0.02)))
        third = asyncio.create_task(batcher.forward(make_rows(3)))
        await asyncio.sleep(0.01)
        net.is_open.set()
        await asyncio.gather(first, third)
        return error

    error = asyncio.run(call())

    assert isinstance(error, DeadlineExceeded)
    assert "no response within the request's timeout of 0.02 s" in error.message
    assert net.passes == [[1], [3]]
    assert batcher.report_passes().late_rows == 1


def test_a_request_without_a_deadline_has_the_services_own() -> None:
    batcher, _ = make_batcher(rows=1, request_timeout_s=1.0)

    async def call_all() -> list[Any]:
        return await gather(*(batcher.forward(make_rows(number)) for number in range(100)))

    results = asyncio.run(call_all())

    # 1 s is 50 passes, of which 0.8 may be planned.
    assert 35 <= sum(not isinstance(each, QueueFull) for each in results) <= 42


@pytest.mark.parametrize(
    ("queued", "scheduling", "is_admitted"),
    [
        (4, None, True),
        (16, None, True),  # 0.4 s, four times the goal
        (20, None, False),
        (20, Scheduling.after(1000.0), True),  # it says how long it waits
        (20, Scheduling(priority=BATCH), True),
    ],
)
def test_with_a_latency_goal_a_request_waits_for_a_few_times_of_it(
    queued: int, scheduling: Scheduling | None, is_admitted: bool
) -> None:
    queue = ChunkQueue(False)
    queue.rows = queued
    admission = Admission(PassEstimator({4: 0.1}, 4), queue, 30.0, slo_p99_s=0.1)

    assert admission.max_rows == 16
    if is_admitted:
        admission.check(1, scheduling, 0.0)
    else:
        with pytest.raises(QueueFull, match=r"latency goal admits 0.4 s; try again later"):
            admission.check(1, scheduling, 0.0)
