"""Traffic: what replicas have done in the last seconds, as the differences of their reports.

Reports come once a second (deployments.edge.directory); rates and quantiles are over WINDOW_S, or a replica's whole
life where that is shorter.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from deployments.scaling.report import ReplicaReport, compute_quantile
from training.schema import StrictModel

WINDOW_S = 10.0


@dataclass(frozen=True)
class Window:
    """What one replica did.

    Attributes:
        duration_s: how long.
        before: its report at the beginning; None where it started then.
        last: its last report.
    """

    duration_s: float
    before: ReplicaReport | None
    last: ReplicaReport

    def count_responses(self) -> dict[int, int]:
        """Number of responses within the window, by status."""
        before = self.before.responses if self.before else {}
        return {status: count - before.get(status, 0) for status, count in self.last.responses.items()}

    def count_latencies(self) -> list[int]:
        """Counts of the histogram of latencies within the window."""
        if self.before is None:
            return list(self.last.latencies)
        return [after - before for after, before in zip(self.last.latencies, self.before.latencies, strict=True)]


class ReportHistory:
    """The reports of one replica in the last WINDOW_S."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, ReplicaReport]] = deque()

    def add(self, received_s: float, report: ReplicaReport) -> None:
        """Add a report, which is newer than all others.

        Args:
            received_s: on a monotonic clock.
            report: the replica's.
        """
        self._reports.append((received_s, report))
        # The first one is the last that is old enough.
        while len(self._reports) > 2 and received_s - self._reports[1][0] >= WINDOW_S:
            self._reports.popleft()

    @property
    def last(self) -> ReplicaReport:
        """The last report."""
        return self._reports[-1][1]

    def get_window(self) -> Window:
        """The window that ends with the last report."""
        (first_s, first), (last_s, last) = self._reports[0], self._reports[-1]
        if last.uptime_s <= WINDOW_S or first is last:
            # As where the directory has just started: all that the replica has done is what is known.
            return Window(last.uptime_s, None, last)
        return Window(last_s - first_s, first, last)


class Traffic(StrictModel):
    """What the replicas of a deployment did in the last seconds, and what is in them now.

    Attributes:
        requests_per_s: responses, whatever their status.
        errors_per_s: responses with a status of 500 or more.
        p50_s: median latency within the replica of what was answered below 500; None where nothing was.
        p99_s: 99th percentile of the same.
        ongoing: requests inside.
        queued_rows: rows that wait for a forward pass.
    """

    requests_per_s: float
    errors_per_s: float
    p50_s: float | None
    p99_s: float | None
    ongoing: int
    queued_rows: int


def measure_traffic(windows: Iterable[Window]) -> Traffic:
    """Add up the windows of several replicas."""
    windows = list(windows)
    requests = errors = 0.0
    for window in windows:
        responses, duration_s = window.count_responses(), max(window.duration_s, 1e-3)
        requests += sum(responses.values()) / duration_s
        errors += sum(count for status, count in responses.items() if status >= 500) / duration_s
    counts = [sum(bucket) for bucket in zip(*(window.count_latencies() for window in windows), strict=True)]
    p50_s, p99_s = (None if math.isnan(each := compute_quantile(counts, q)) else each for q in (0.5, 0.99))
    return Traffic(
        requests_per_s=round(requests, 3),
        errors_per_s=round(errors, 3),
        p50_s=p50_s,
        p99_s=p99_s,
        ongoing=sum(window.last.ongoing for window in windows),
        queued_rows=sum(window.last.passes.queued_rows for window in windows),
    )
