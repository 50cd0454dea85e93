"""Replica report: what a replica has done since it started, and what is in it now.

It goes to the directory with each renewal of the replica's membership, for whoever compares versions, shows status or
scales. Counts are totals: a reader takes the difference of two reports, so that one that is lost takes nothing with it.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

MIN_LATENCY_S, MAX_LATENCY_S = 50e-6, 128.0
BUCKETS_PER_OCTAVE = 8
"""Two bounds next to each other differ by 2**(1/8), 9%: fine enough to compare two latencies, or one with its goal."""
BUCKETS = math.ceil(math.log2(MAX_LATENCY_S / MIN_LATENCY_S) * BUCKETS_PER_OCTAVE) + 1
BOUNDS_S = tuple(MIN_LATENCY_S * 2 ** (index / BUCKETS_PER_OCTAVE) for index in range(BUCKETS - 1))
"""Upper bounds of all buckets but the last one, which has none."""


class LatencyHistogram:
    """Counts of latencies in buckets whose bounds grow by a constant factor.

    Like HdrHistogram's, its relative error is bounded: https://hdrhistogram.org.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self, counts: tuple[int, ...] = (), sum_s: float = 0.0) -> None:
        self.counts = list(counts) or [0] * BUCKETS
        self.sum_s = sum_s

    def record(self, latency_s: float) -> None:
        """Count one latency."""
        self.sum_s += latency_s
        self.counts[bisect_left(BOUNDS_S, latency_s)] += 1

    def compute_quantile(self, q: float) -> float:
        """Compute a quantile in seconds, as the upper bound of its bucket; NaN where nothing was counted."""
        return compute_quantile(self.counts, q)


def compute_quantile(counts: Sequence[int], q: float) -> float:
    """Compute a quantile of a histogram's counts in seconds, as the upper bound of its bucket; NaN where all are 0."""
    total = sum(counts)
    if not total:
        return math.nan
    index = bisect_left(list(accumulate(counts)), max(1, math.ceil(q * total)))
    return BOUNDS_S[index] if index < len(BOUNDS_S) else MAX_LATENCY_S


@dataclass(frozen=True)
class PassReport:
    """What a batcher has done, and has to do.

    Attributes:
        queued_rows: rows that wait for a pass, now.
        passes: forward passes.
        rows: through them.
        busy_s: seconds that they took together.
        refused: requests that could not have been answered in time, and were not admitted.
        late_rows: rows that were not computed, since the deadlines of their requests came too early.
        abandoned_rows: rows that were not computed, since their callers had left.
        failures: requests whose rows the net failed for, or gave no finite number: 422, but not for the caller's fault.
        time_steps: through the passes, padding included; 0 for rows without a time axis.
        padding: time steps among those that are padding.
        waits: counts of the histogram of each request's seconds in the queue, by BOUNDS_S.
        wait_s: their sum.
        durations: counts of the histogram of each pass's seconds, by BOUNDS_S.
        pass_rows: number of passes by their rows.
        generated_tokens: of a language model.
    """

    queued_rows: int = 0
    passes: int = 0
    rows: int = 0
    busy_s: float = 0.0
    refused: int = 0
    late_rows: int = 0
    abandoned_rows: int = 0
    failures: int = 0
    time_steps: int = 0
    padding: int = 0
    waits: tuple[int, ...] = ()
    wait_s: float = 0.0
    durations: tuple[int, ...] = ()
    pass_rows: Mapping[int, int] = field(default_factory=dict)
    generated_tokens: int = 0


@dataclass(frozen=True)
class PairReport:
    """Answers of a replica, and of a version beside it that got copies of the same requests.

    Attributes:
        pairs: that were compared.
        agreements: of them.
        dropped: copies that were not sent, or not answered.
    """

    pairs: int = 0
    agreements: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class CallReport:
    """What came by handles: from pipelines, the gRPC gateways and the control application.

    Attributes:
        responses: number by status.
        latencies: counts of the histogram of those with a status below 499, by BOUNDS_S.
        latency_s: their sum.
        ongoing: calls inside now.
        total: calls that have begun.
        excluded_latencies: counts of those of refusals, a status of 400 to 498, which compute nothing.
    """

    responses: Mapping[int, int] = field(default_factory=dict)
    latencies: tuple[int, ...] = ()
    latency_s: float = 0.0
    ongoing: int = 0
    total: int = 0
    excluded_latencies: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReplicaReport:
    """What a replica has done since its start.

    Attributes:
        uptime_s: since it takes requests.
        ongoing: requests inside it now, from the edge and by handles.
        responses: number of requests from the edge by the status of their response; 499: the caller left before.
        latencies: counts of the histogram of those that were answered with a status below 499, by BOUNDS_S.
        passes: of its batcher; all zero for a pipeline.
        calls: number of requests that compute something, POSTs from the edge and calls by handles: a monitor that asks
            whether a model is ready does not use it.
        start_phases: seconds of each phase of its start (deployments.models.cold_start).
        copies: what came of the copies of its requests.
        latency_s: sum of those latencies.
        errors: number of error responses by their code, those to handle calls not among them.
        handle_calls: what came by handles.
        node_id: Ray's id of the node that it runs on.
        probe_responses: of `responses`, those to requests that compute nothing, as a monitor's GETs.
        excluded_latencies: of `latencies`, those of refusals and of probes.
    """

    uptime_s: float
    ongoing: int
    responses: dict[int, int]
    latencies: tuple[int, ...]
    passes: PassReport = PassReport()
    calls: int = 0
    start_phases: dict[str, float] = field(default_factory=dict)
    copies: PairReport = PairReport()
    latency_s: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    handle_calls: CallReport = CallReport()
    node_id: str = ""
    probe_responses: Mapping[int, int] = field(default_factory=dict)
    excluded_latencies: tuple[int, ...] = ()

    @property
    def cold_start_s(self) -> float:
        """Seconds from the start of its process until the edges sent requests."""
        return sum(self.start_phases.values())


class RequestStatistics:
    """Counts the requests of one replica: the one record that is made of each.

    Error responses are counted by their code, too, where they are made. What a comparison of versions leaves out is
    counted apart, for its reader to subtract: a call that is answered costs nothing more.
    """

    def __init__(self) -> None:
        self.responses: Counter[int] = Counter()
        self.latencies = LatencyHistogram()
        self.calls = 0
        self.errors: Counter[str] = Counter()
        self.probe_responses: Counter[int] = Counter()
        self.excluded_latencies = LatencyHistogram()

    def record(self, status: int, latency_s: float, *, is_call: bool = True) -> None:
        """Count one request; `is_call`: whether it asks to compute something."""
        self.responses[status] += 1
        if is_call and status < 400:
            self.calls += 1
            self.latencies.record(latency_s)
        else:
            self._record_excluded(status, latency_s, is_call)

    def _record_excluded(self, status: int, latency_s: float, is_call: bool) -> None:
        if is_call:
            self.calls += 1
        else:
            self.probe_responses[status] += 1
        if status < 499:
            self.latencies.record(latency_s)
            self.excluded_latencies.record(latency_s)

    def dump(self) -> dict[str, Any]:
        """The totals, by the names that a replica's report has for them."""
        return {
            "responses": dict(self.responses),
            "latencies": tuple(self.latencies.counts),
            "latency_s": self.latencies.sum_s,
            "errors": dict(self.errors),
            "probe_responses": dict(self.probe_responses),
            "excluded_latencies": tuple(self.excluded_latencies.counts),
        }

    def record_request(self, method: str, status: int, latency_s: float) -> None:
        """Count one request from the edge."""
        self.record(status, latency_s, is_call=method == "POST")
