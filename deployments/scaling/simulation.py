"""Simulation: requests that arrive at random at replicas which batch as Batcher does; their latencies.

It stands where a formula would: passes take what arrived while the last one ran, up to their rows, and last as the
profile says. Such a server is an M/D[b]/1 queue for which closed forms exist at one row per pass only (Pollaczek-
Khinchine), and none for arrivals in bursts. That a planner of serving should simulate its own scheduler on a profile is
InferLine's way (Crankshaw et al., "InferLine", SoCC 2020); that a net's passes last predictably enough for it is
Clockwork's observation (Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020).
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.scaling.profile import Profile

Times = npt.NDArray[np.float64]

DEFAULT_REQUESTS = 10_000
# Of the requests, not counted: the queue begins empty.
WARM_UP_SHARE = 0.1
DURATION_SAMPLES = 4096


@dataclass(frozen=True)
class Service:
    """What one replica does with a request.

    Attributes:
        profile: durations of its passes.
        pass_rows: the most rows of one.
        request_s: CPU seconds beside the passes for each request. They are counted as if nothing ran beside them: the
            event loop and the passes share a replica's core, and Python's lock.
        path_s: seconds that a request is on its way to the replica and back; they delay, and do not occupy.
        row_s: CPU seconds beside the passes for each row of a request, on top.
        is_noisy: whether a pass lasts as long as one of those that were timed, at random; else always their mean.
    """

    profile: Profile
    pass_rows: int
    request_s: float = 0.0
    path_s: float = 0.0
    row_s: float = 0.0
    is_noisy: bool = True

    def compute_capacity(self, rows: int = 1) -> float:
        """Requests per second of a replica that always has a full queue.

        Args:
            rows: of each request.
        """
        pass_s = self.profile.estimate_pass_s(self.pass_rows)
        return 1 / max(pass_s * rows / self.pass_rows + self.request_s + self.row_s * rows, 1e-9)


class Simulated(NamedTuple):
    """What came of a simulation; latencies are in seconds."""

    mean_s: float
    p50_s: float
    p99_s: float
    mean_wait_s: float  # until a request's first rows are in a pass
    busy_share: float  # of the time, in which a replica runs passes, full or not
    requests_per_s: float
    ongoing: float  # requests inside a replica, on average


def draw_arrivals(rate: float, requests: int, cv: float = 1.0, seed: int = 0) -> Times:
    """Draw times of arrivals with independent gaps.

    The same seed gives the same sequence at another rate, stretched: results are comparable between rates.

    Args:
        rate: requests per second.
        requests: how many.
        cv: coefficient of variation of the gaps, which have a gamma distribution; 1 for a Poisson process, more for
            bursts, 0 for regular arrivals.
        seed: of the random numbers.
    """
    if cv == 0:
        return np.arange(1, requests + 1) / rate
    gaps = np.random.default_rng(seed).gamma(1 / cv**2, cv**2, requests)
    return np.asarray(gaps.cumsum() / rate)


def simulate(
    service: Service,
    rate: float,
    *,
    replicas: int = 1,
    rows: int = 1,
    cv: float = 1.0,
    requests: int = DEFAULT_REQUESTS,
    seed: int = 0,
) -> Simulated:
    """Simulate replicas behind an edge that gives each request to the one with the fewest inside.

    Args:
        service: of each replica.
        rate: requests per second, of all replicas together.
        replicas: how many.
        rows: of each request.
        cv: of the gaps between arrivals; see draw_arrivals.
        requests: how many arrive.
        seed: of the random numbers.
    """
    arrivals_s = draw_arrivals(rate, requests, cv, seed).tolist()
    durations_s = _draw_durations(service.profile, service.pass_rows, service.is_noisy, seed)
    servers = [_Replica(service, durations_s, index * 101) for index in range(replicas)]
    started_s, finished_s = [0.0] * requests, [0.0] * requests
    for request, arrival_s in enumerate(arrivals_s):
        for server in servers:
            if server.next_s <= arrival_s:
                server.advance(arrival_s, started_s, finished_s)
        server = servers[0] if replicas == 1 else min(servers, key=_count_ongoing)
        server.add(request, arrival_s, rows)
    for server in servers:
        server.advance(float("inf"), started_s, finished_s)
    skipped = int(WARM_UP_SHARE * requests)
    arrived_s = np.array(arrivals_s)
    latency_s = (np.array(finished_s) - arrived_s)[skipped:] + service.path_s
    waits_s = (np.array(started_s) - arrived_s)[skipped:]
    elapsed_s = max(finished_s)
    p50_s, p99_s = np.quantile(latency_s, (0.5, 0.99))
    mean_s = float(latency_s.mean())
    return Simulated(
        mean_s=mean_s,
        p50_s=float(p50_s),
        p99_s=float(p99_s),
        mean_wait_s=float(waits_s.mean()),
        busy_share=sum(server.busy_s for server in servers) / (elapsed_s * replicas),
        requests_per_s=requests / elapsed_s,
        # Little's law, of what is inside a replica.
        ongoing=rate / replicas * (mean_s - service.path_s),
    )


class _Replica:
    """One replica's queue; `next_s` is when its pass ends, and infinite while it has none."""

    def __init__(self, service: Service, durations_s: list[list[float]], first: int) -> None:
        self._service, self._durations_s = service, durations_s
        self._queue: deque[tuple[int, int]] = deque()  # request, rows
        self._remaining: dict[int, int] = {}  # rows that have not come back, of each request inside
        self._batch: list[tuple[int, int]] = []
        self._passes = first  # replicas draw different ones
        self.next_s = float("inf")
        self.busy_s = 0.0
        self._starts: list[tuple[int, float]] = []

    @property
    def ongoing(self) -> int:
        return len(self._remaining)

    def add(self, request: int, arrival_s: float, rows: int) -> None:
        self._remaining[request] = rows
        self._queue.append((request, rows))
        if not self._batch:
            self._start_pass(arrival_s)

    def _start_pass(self, now_s: float) -> None:
        """As Batcher._take_batch: what is queued, up to pass_rows; what is left of a request goes behind the others."""
        queue, limit, rows = self._queue, self._service.pass_rows, 0
        batch = []
        while queue and rows < limit:
            request, count = queue.popleft()
            if count > limit - rows:
                queue.append((request, count - limit + rows))
                count = limit - rows
            rows += count
            batch.append((request, count))
            self._starts.append((request, now_s))
        duration_s = self._durations_s[self._passes % len(self._durations_s)][rows - 1]
        duration_s += self._service.request_s * len(batch) + self._service.row_s * rows
        self._passes += 1
        self._batch, self.next_s = batch, now_s + duration_s
        self.busy_s += duration_s

    def advance(self, until_s: float, started_s: list[float], finished_s: list[float]) -> None:
        """End the passes that end by a time, and start those that follow."""
        while self.next_s <= until_s and self._batch:
            now_s = self.next_s
            for request, rows in self._batch:
                self._remaining[request] -= rows
                if not self._remaining[request]:
                    del self._remaining[request]
                    finished_s[request] = now_s
            for request, start_s in self._starts:
                started_s[request] = started_s[request] or start_s
            self._starts.clear()
            self._batch, self.next_s = [], float("inf")
            if self._queue:
                self._start_pass(now_s)


def _count_ongoing(replica: _Replica) -> int:
    return replica.ongoing


@lru_cache(maxsize=8)
def _draw_durations(profile: Profile, pass_rows: int, is_noisy: bool, seed: int) -> list[list[float]]:
    """Draw durations of passes: for each of DURATION_SAMPLES passes one for each number of rows.

    A pass that is long for one number of rows is as long for another: it is the machine that was busy.
    """
    sizes = [timing.rows for timing in profile.passes]
    by_size_s = np.empty((DURATION_SAMPLES, len(sizes)))
    quantile = np.random.default_rng(seed + 1).random(DURATION_SAMPLES)
    for column, timing in enumerate(profile.passes):
        if is_noisy:
            known_s = (timing.min_s, timing.p50_s, timing.p90_s, timing.p99_s, timing.p99_s)
            by_size_s[:, column] = np.interp(quantile, (0, 0.5, 0.9, 0.99, 1), known_s)
        else:
            by_size_s[:, column] = timing.mean_s
    rows = np.clip(np.arange(1, pass_rows + 1), sizes[0], sizes[-1])
    upper = np.searchsorted(sizes, rows)
    lower = np.maximum(upper - 1, 0)
    gap = np.maximum(np.array(sizes)[upper] - np.array(sizes)[lower], 1)
    share = np.where(upper == lower, 0.0, (rows - np.array(sizes)[lower]) / gap)
    durations_s = by_size_s[:, lower] * (1 - share) + by_size_s[:, upper] * share
    result: list[list[float]] = durations_s.tolist()
    return result
