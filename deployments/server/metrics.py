"""Metrics of a replica's requests: counted in the process, and handed to Ray's exporter once a second.

Request walk: http_server.py -> [metrics.py]
Ray's own counters take microseconds for each change, a tenth of a small model's request. The latency is a histogram
in Prometheus' form, whose buckets are counters: `histogram_quantile(0.99, sum by (le) (rate(..._bucket_total[5m])))`.
https://prometheus.io/docs/practices/histograms/
"""

import asyncio
from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Callable

from ray.serve.metrics import Counter, Gauge

FLUSH_INTERVAL_S = 1.0
# Seconds; a factor of about 2 between them, from a small net's answer to the longest time limit.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_BOUNDS = (*map(str, BUCKETS), "+Inf")


class RequestMetrics:
    """Requests by method and status, their latency, and how many are inside."""

    def __init__(self) -> None:
        self._requests: Count[tuple[str, int]] = Count()
        self._latencies = [0] * len(_BOUNDS)
        self._latency_sum_s = 0.0
        self._requests_counter = Counter(
            "shoal_http_requests",
            "HTTP requests that a replica answered.",
            ("method", "status"),  # type: ignore[arg-type] # Ray annotates a tuple of one
        )
        self._latency_counter = Counter(
            "shoal_http_request_latency_seconds_bucket", "Requests that took at most `le` seconds.", ("le",)
        )
        self._latency_sum = Counter("shoal_http_request_latency_seconds_sum", "Seconds that all requests took.")
        self._ongoing_gauge = Gauge("shoal_ongoing_requests", "Requests inside a replica, from the edge.")

    def record(self, method: str, status: int, duration_s: float) -> None:
        """Count one request."""
        self._requests[method, status] += 1
        self._latencies[bisect_left(BUCKETS, duration_s)] += 1
        self._latency_sum_s += duration_s

    async def run(self, count_ongoing: Callable[[], int]) -> None:
        """Hand the counts over, until canceled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            self.flush(count_ongoing())

    def flush(self, ongoing: int) -> None:
        """Hand over what was counted since the last time."""
        self._ongoing_gauge.set(ongoing)
        if not self._requests:
            return
        requests, self._requests = self._requests, Count()
        latencies, self._latencies = self._latencies, [0] * len(_BOUNDS)
        for (method, status), count in requests.items():
            self._requests_counter.inc(count, {"method": method, "status": str(status)})
        total = 0
        for bound, count in zip(_BOUNDS, latencies, strict=True):
            total += count
            if total:
                self._latency_counter.inc(total, {"le": bound})
        if self._latency_sum_s:
            self._latency_sum.inc(self._latency_sum_s)
            self._latency_sum_s = 0.0
