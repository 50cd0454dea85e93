"""Admission: whether a request can be answered in time, by the rows that wait and by how long passes take now.

Request walk: batching.py -> [admission.py]
What cannot is refused before it costs anything: a queue that is longer than callers wait makes every answer useless
(Dean and Barroso, "The Tail at Scale"; Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020, which decides by the
measured durations of passes, too).
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

from deployments.access.caller import CURRENT_CALLER
from deployments.errors import CallError, DeadlineExceeded, QueueFull
from deployments.models.chunk_queue import MAX_PASSES_WITHOUT_BATCH, ChunkQueue
from deployments.models.chunks import PendingRequest
from deployments.server.scheduling import BATCH, TIMEOUT_HEADER, Scheduling

# Least weight of the last pass in the moving averages.
SMOOTHING = 0.1
# One pass that lasts longer than so many times the one before, or the average, counts as so many: the process may have
# been suspended. The next one says whether it was an exception.
MAX_RISE = 2.0
# The sum of passes is planned with so many deviations above its mean.
DEVIATIONS = 2.0
# How often the rows that are admitted without a look are computed; for a fast net, less often than it has passes.
UPDATE_INTERVAL_S = 0.1
# An estimate that is older may be of another time; an idle replica then admits any request, to make a new one.
MAX_ESTIMATE_AGE_S = 1.0
# Share of the time until a deadline that may be planned; passes vary, and an answer is still encoded and sent.
PLANNED_SHARE = 0.8
# A burst is answered later than its goal rather than refused; a queue of so many times the goal is more than a burst.
MAX_WAIT_GOALS = 4


class WaitEstimator(Protocol):
    """Expects how long rows take."""

    def estimate_wait_s(self, rows: int) -> float:
        """Seconds until so many rows are through the net."""


class PassEstimator:
    """Durations of passes by their rows, as the warm-up has measured them, times what passes take now.

    Mean and mean deviation of that factor are exponential moving averages, as TCP's of the round-trip time (Jacobson,
    "Congestion avoidance and control", 1988), begun anew after a pause. A single pass can hardly move them: an estimate
    that is far too high refuses every request, and few passes are left to correct it.
    """

    def __init__(self, durations_s: Mapping[int, float], pass_rows: int) -> None:
        """Make an estimator.

        Args:
            durations_s: of passes by their rows; one of pass_rows is among them.
            pass_rows: of a full pass.
        """
        self.pass_rows = pass_rows
        self._durations_s = [_interpolate(durations_s, rows) for rows in range(pass_rows + 1)]
        self._slowdown, self._deviation, self._least_slowdown = 1.0, 0.0, 1.0
        self._last_slowdown, self._weight = 1.0, SMOOTHING
        self.measured_s = perf_counter()

    def record(self, rows: int, duration_s: float, now_s: float) -> None:
        """Take the duration of a pass that has ended, with what the thread did between it and the one before."""
        slowdown = duration_s / self._durations_s[min(rows, self.pass_rows)]
        error = min(slowdown, MAX_RISE * max(self._slowdown, self._last_slowdown)) - self._slowdown
        if now_s - self.measured_s > MAX_ESTIMATE_AGE_S + duration_s:
            self._slowdown, self._deviation, self._weight = self._slowdown + error, 0.0, 1.0
        else:
            # The mean of the passes since the pause, until they are many.
            self._weight = max(SMOOTHING, self._weight / (1 + self._weight))
            self._slowdown += self._weight * error
            self._deviation += self._weight * (abs(error) - self._deviation)
        self._last_slowdown, self._least_slowdown = slowdown, min(self._least_slowdown, slowdown)
        self.measured_s = now_s

    def estimate_pass_s(self, rows: int) -> float:
        """Seconds of one pass."""
        return self._slowdown * self._durations_s[min(rows, self.pass_rows)]

    def estimate_least_s(self, rows: int) -> float:
        """Seconds of so many rows in an idle replica at the fastest that it has been."""
        return self._least_slowdown * self._sum_passes_s(rows)

    def estimate_wait_s(self, rows: int) -> float:
        """Seconds until so many rows are through the net."""
        full_s, wait_s = self._durations_s[self.pass_rows], self._sum_passes_s(rows)
        # The deviation of a sum of passes grows by the square root of their number.
        return self._slowdown * wait_s + DEVIATIONS * self._deviation * math.sqrt(wait_s * full_s)

    def _sum_passes_s(self, rows: int) -> float:
        passes, rest = divmod(rows, self.pass_rows)
        return passes * self._durations_s[self.pass_rows] + (self._durations_s[rest] if rest else 0.0)

    def estimate_rows(self, duration_s: float) -> int:
        """Rows that full passes bring through the net in a time; at least those of one."""
        passes = duration_s / self.estimate_pass_s(self.pass_rows)
        return self.pass_rows * max(1, int(min(passes, 2**32)))


class Admission:
    """Admits requests to a queue of rows."""

    def __init__(
        self, estimator: PassEstimator, queue: ChunkQueue, request_timeout_s: float, slo_p99_s: float | None = None
    ) -> None:
        """Make an admission.

        Args:
            estimator: of passes.
            queue: of the rows that wait.
            request_timeout_s: time limit of a request that has no other.
            slo_p99_s: latency goal; a request waits for MAX_WAIT_GOALS of it at most, unless it says itself how long.
        """
        self.estimator, self._queue, self._request_timeout_s = estimator, queue, request_timeout_s
        self._max_wait_s = math.inf if slo_p99_s is None else MAX_WAIT_GOALS * slo_p99_s
        self.refused, self._update_s = 0, 0.0
        # Up to so many rows there is nothing to check for a request without a deadline of its own.
        self._limit_s = min(PLANNED_SHARE * request_timeout_s, self._max_wait_s)
        self.max_rows = estimator.estimate_rows(self._limit_s)

    def record_pass(self, rows: int, duration_s: float, now_s: float) -> None:
        """Take the duration of a pass."""
        self.estimator.record(rows, duration_s, now_s)
        if now_s < self._update_s:
            return
        self._update_s = now_s + UPDATE_INTERVAL_S
        self.max_rows = self.estimator.estimate_rows(self._limit_s)

    def check(self, rows: int, scheduling: Scheduling | None, running_s: float | None) -> None:
        """Check that a request of so many rows can be answered in time.

        Args:
            rows: of the request; 1 where they are not decoded yet.
            scheduling: of the request.
            running_s: seconds that the pass which runs has left; None where none runs.

        Raises:
            DeadlineExceeded: its time is over, or too short for an idle replica.
            QueueFull: the rows ahead of it take too long.
        """
        scheduling = scheduling or Scheduling()
        timeout_s = min(scheduling.timeout_s, self._request_timeout_s)
        remaining_s = min(scheduling.remaining_s(), self._request_timeout_s)
        try:
            if remaining_s <= 0:
                raise _build_deadline_exceeded(timeout_s)
            least_s = self.estimator.estimate_least_s(rows)
            if running_s is None and (least_s <= remaining_s or self._is_old()):
                return  # nothing waits for it, and an estimate that is wrong is corrected
            if least_s > remaining_s:
                raise DeadlineExceeded(
                    f"no response within the request's timeout of {timeout_s:g} s: {rows} rows take {least_s:.3g} s at "
                    "least; set a longer one, or send fewer rows"
                )
            rows_ahead = self._count_rows_ahead(scheduling, rows)
            if running_s is not None and scheduling == Scheduling():
                ahead_s = running_s + self.estimator.estimate_wait_s(rows_ahead)
                if ahead_s > self._max_wait_s:
                    raise QueueFull(
                        f"the rows ahead take about {ahead_s:.3g} s, and this model's latency goal admits "
                        f"{self._max_wait_s:g} s; try again later, or say how long you wait: {TIMEOUT_HEADER.decode()}",
                        max(1, math.ceil(ahead_s - self._max_wait_s)),
                    )
            wait_s = (running_s or 0.0) + self.estimator.estimate_wait_s(rows_ahead + rows)
            if wait_s > PLANNED_SHARE * remaining_s:
                raise _build_queue_full(wait_s, timeout_s, wait_s - PLANNED_SHARE * remaining_s)
        except CallError:
            self.refused += 1
            raise

    def _is_old(self) -> bool:
        return perf_counter() - self.estimator.measured_s > MAX_ESTIMATE_AGE_S

    def _count_rows_ahead(self, scheduling: Scheduling, rows: int) -> int:
        """Count the rows that wait, and go first; of other tenants, those that their shares let go first."""
        batch_rows = self._queue.batch_rows
        interactive_rows = self._queue.rows - batch_rows
        if scheduling.priority != BATCH:
            interactive_rows = self._queue.count_interactive_rows_ahead(CURRENT_CALLER.get().tenant, rows)
            # Every so many passes, one is theirs.
            return interactive_rows + min(batch_rows, interactive_rows // (MAX_PASSES_WITHOUT_BATCH - 1))
        # Where interactive rows fill the passes, they get no other.
        is_saturated = interactive_rows >= self.estimator.pass_rows
        return interactive_rows + batch_rows * (MAX_PASSES_WITHOUT_BATCH if is_saturated else 1)


def fail_late(request: PendingRequest) -> None:
    """Fail a request at its deadline; its rows are dropped before the next pass."""
    request.finish(_build_deadline_exceeded(request.timeout_s))


def refuse_late(requests: list[PendingRequest], wait_s: float) -> None:
    """Refuse requests that the queue dropped, since the next pass will not end before their deadlines.

    Args:
        requests: those.
        wait_s: how long the rows take that go first.
    """
    for request in requests:
        request.finish(_build_queue_full(wait_s, request.timeout_s, wait_s))


def _build_deadline_exceeded(timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"no response within the request's timeout of {timeout_s:g} s; set a longer one")


def _build_queue_full(wait_s: float, timeout_s: float, excess_s: float) -> QueueFull:
    """Build the refusal of a request that would wait too long, by excess_s."""
    retry_after_s = max(1, math.ceil(excess_s))
    return QueueFull(
        f"the rows ahead and this request's take about {wait_s:.3g} s, too long for its timeout of {timeout_s:g} s; "
        f"try again in {retry_after_s} s",
        retry_after_s,
    )


def _interpolate(durations_s: Mapping[int, float], rows: int) -> float:
    """Interpolate between the sizes that were measured; a pass of fewer rows than any takes as long as the smallest."""
    sizes = sorted(durations_s)
    index = bisect_left(sizes, rows)
    if index == 0 or sizes[min(index, len(sizes) - 1)] == rows:
        return max(durations_s[sizes[index]], 1e-9)
    if index == len(sizes):
        return max(durations_s[sizes[-1]] * rows / sizes[-1], 1e-9)
    low, high = sizes[index - 1], sizes[index]
    share = (rows - low) / (high - low)
    return max(durations_s[low] + share * (durations_s[high] - durations_s[low]), 1e-9)
