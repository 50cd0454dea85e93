"""Load of one replica: what it tells the scaling policy each second, from its own counts.

Ray Serve collects it and hands the loads of a deployment's replicas to policy.py.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from deployments.scaling.report import ReplicaReport, compute_quantile

ONGOING, QUEUED_ROWS, BUSY_SHARE, CALL_RATE, ROW_RATE, P99_S = (
    "ongoing_requests",
    "queued_rows",
    "busy_share",
    "calls_per_s",
    "rows_per_s",
    "p99_s",
)
TARGET_ONGOING, CAPACITY = "target_ongoing_requests", "capacity_rows_per_s"
"""Of a replica with a latency goal, by its own profile: what it should have inside, and answer, on average."""

Load = dict[str, float]
"""By those names: requests inside and rows that wait (means since the last report), the share of the time in forward
passes, calls and rows per second, and the 99th percentile of the latency in seconds, missing where nothing was
answered."""

# A request of a few milliseconds would fall between two samples a second apart.
SAMPLE_INTERVAL_S = 0.1
# One second has too few requests for a 99th percentile.
LATENCY_WINDOW_S = 10.0


class LoadMeter:
    """Samples a replica's counts, and reports them as a load."""

    def __init__(self, report: Callable[[], ReplicaReport], now: Callable[[], float] = time.monotonic) -> None:
        """Make a meter; it samples while `run` does.

        Args:
            report: the replica's counts.
            now: clock in seconds.
        """
        self._report, self._now = report, now
        self._history: deque[tuple[float, ReplicaReport]] = deque([(now(), report())])
        self._ongoing: list[int] = []
        self._queued_rows: list[int] = []

    async def run(self) -> None:
        """Sample until canceled."""
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL_S)
            self.sample()

    def sample(self) -> None:
        """Take one sample."""
        self._add_sample(self._report())

    def _add_sample(self, report: ReplicaReport) -> None:
        self._ongoing.append(report.ongoing)
        self._queued_rows.append(report.passes.queued_rows)

    def measure(self) -> Load:
        """Return the load since the last call: what a replica's `record_autoscaling_stats` returns."""
        now_s, report = self._now(), self._report()
        self._add_sample(report)
        last_s, last = self._history[-1]
        interval_s = max(now_s - last_s, 1e-3)
        load = {
            ONGOING: sum(self._ongoing) / len(self._ongoing),
            QUEUED_ROWS: sum(self._queued_rows) / len(self._queued_rows),
            BUSY_SHARE: (report.passes.busy_s - last.passes.busy_s) / interval_s,
            ROW_RATE: (report.passes.rows - last.passes.rows) / interval_s,
            CALL_RATE: (report.calls - last.calls) / interval_s,
        }
        self._ongoing.clear()
        self._queued_rows.clear()
        self._history.append((now_s, report))
        while now_s - self._history[0][0] > LATENCY_WINDOW_S:
            self._history.popleft()
        oldest = self._history[0][1].latencies
        p99_s = compute_quantile([new - old for new, old in zip(report.latencies, oldest, strict=True)], 0.99)
        return load if math.isnan(p99_s) else load | {P99_S: p99_s}
