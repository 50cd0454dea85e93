"""Exposition: the replicas' reports as Prometheus metrics; what is counted once in a replica is only written out here.

Names, units and labels follow https://prometheus.io/docs/practices/naming/. Counts are a replica's totals, so that
`rate` and `sum by` work, and a replica that is gone takes its series with it. Latencies are counted in 8 buckets for
each doubling (report.py); every second of those bounds is written for requests, every eighth for queue and passes: 87
and 22 series of a replica.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from deployments.edge.state import CANARY_SUFFIX, SPLIT_BUCKETS, Member, Split
from deployments.scaling.report import BOUNDS_S, ReplicaReport

REQUEST_BOUND_STEP, PASS_BOUND_STEP = 2, 8
MAX_PASS_ROWS_EXPONENT = 12
LABELS = ("model", "version", "replica")
EDGE_SOURCE, HANDLE_SOURCE = "edge", "handle"
LATE, ABANDONED = "late", "abandoned"
COPY_OUTCOMES = ("agreed", "differed", "dropped")

Reports = Sequence[tuple[Member, ReplicaReport]]
Value = tuple[tuple[str, ...], float]


def encode_metrics(reports: Reports, parts_up: Mapping[str, bool], splits: Sequence[Split] = ()) -> bytes:
    """Write metrics in Prometheus' text format, version 0.0.4.

    Args:
        reports: of the replicas on one node.
        parts_up: of what makes up a node's metrics, whether it answered.
        splits: as this node's edge has them.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(reports, parts_up, splits))
    return generate_latest(registry)


class _Collector:
    def __init__(self, reports: Reports, parts_up: Mapping[str, bool], splits: Sequence[Split]) -> None:
        self._reports, self._parts_up, self._splits = reports, parts_up, splits

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        parts = GaugeMetricFamily("shoal_scrape_part_up", "Whether a part of these metrics is there.", labels=("part",))
        for part, is_up in self._parts_up.items():
            parts.add_metric((part,), float(is_up))
        yield parts
        yield from self._collect_requests()
        yield from self._collect_passes()
        yield from self._collect_replicas()
        yield from self._collect_canaries()

    def _each(self) -> Iterator[tuple[tuple[str, ...], Member, ReplicaReport]]:
        for member, report in self._reports:
            model = member.route.name.removesuffix(CANARY_SUFFIX)
            yield (model, str(member.version or ""), member.id), member, report

    def _collect_requests(self) -> Iterator[Metric]:
        counts: list[Value] = []
        errors: list[Value] = []
        durations = _make_histogram("shoal_request_duration_seconds", "Requests with a status below 499.", "source")
        for labels, _, report in self._each():
            calls = report.handle_calls
            counts += [((*labels, EDGE_SOURCE, str(status)), count) for status, count in report.responses.items()]
            counts += [((*labels, HANDLE_SOURCE, str(status)), count) for status, count in calls.responses.items()]
            errors += [((*labels, code), count) for code, count in report.errors.items()]
            _add_seconds(durations, (*labels, EDGE_SOURCE), report.latencies, report.latency_s, REQUEST_BOUND_STEP)
            if calls.responses:
                _add_seconds(durations, (*labels, HANDLE_SOURCE), calls.latencies, calls.latency_s, REQUEST_BOUND_STEP)
        yield _make_counter(
            "shoal_requests", "Requests by status, from the edge or by a handle; 499: its caller left.", counts,
            "source", "status",
        )  # fmt: skip
        yield _make_counter("shoal_request_errors", "Error responses to the edge, by code.", errors, "code")
        yield durations

    def _collect_passes(self) -> Iterator[Metric]:
        waits = _make_histogram("shoal_queue_wait_seconds", "Seconds in the queue until a request's first pass.")
        durations = _make_histogram("shoal_pass_duration_seconds", "Seconds of forward passes.")
        rows = _make_histogram("shoal_pass_rows", "Rows of forward passes.")
        time_steps: list[Value] = []
        padding: list[Value] = []
        tokens: list[Value] = []
        refused: list[Value] = []
        dropped: list[Value] = []
        for labels, _, report in self._each():
            passes = report.passes
            if not passes.waits:
                continue  # it has no batcher
            _add_seconds(waits, labels, passes.waits, passes.wait_s, PASS_BOUND_STEP)
            _add_seconds(durations, labels, passes.durations, passes.busy_s, PASS_BOUND_STEP)
            rows.add_metric(labels, _bucket_rows(passes.pass_rows), float(passes.rows))
            refused.append((labels, passes.refused))
            dropped += [((*labels, LATE), passes.late_rows), ((*labels, ABANDONED), passes.abandoned_rows)]
            if passes.time_steps:
                time_steps.append((labels, passes.time_steps))
                padding.append((labels, passes.padding))
            if passes.generated_tokens:
                tokens.append((labels, passes.generated_tokens))
        yield from (waits, durations, rows)
        yield _make_counter("shoal_refused_requests", "Those that could not have been answered in time.", refused)
        yield _make_counter("shoal_dropped_rows", "Rows that were not computed, by reason.", dropped, "reason")
        yield _make_counter("shoal_pass_time_steps", "Time steps (tokens) of passes, padding included.", time_steps)
        yield _make_counter("shoal_pass_padding_time_steps", "Those that are padding.", padding)
        yield _make_counter("shoal_generated_tokens", "Tokens that a language model generated.", tokens)

    def _collect_canaries(self) -> Iterator[Metric]:
        weights = GaugeMetricFamily(
            "shoal_canary_weight_ratio", "Share of a model's requests that its canary gets.", labels=LABELS[:2]
        )
        for split in self._splits:
            weights.add_metric((split.name, str(split.canary_version)), split.weight / SPLIT_BUCKETS)
        yield weights
        copies: list[Value] = []
        for labels, _, report in self._each():
            pairs = report.copies
            if pairs.pairs or pairs.dropped:
                counts = (pairs.agreements, pairs.pairs - pairs.agreements, pairs.dropped)
                copies += [((*labels, name), count) for name, count in zip(COPY_OUTCOMES, counts, strict=True)]
        yield _make_counter(
            "shoal_shadow_copies", "Copies of a replica's requests, by what came of them.", copies, "outcome"
        )

    def _collect_replicas(self) -> Iterator[Metric]:
        gauges: dict[str, tuple[str, list[Value]]] = {
            "shoal_ongoing_requests": ("Requests inside a replica.", []),
            "shoal_queued_rows": ("Rows that wait for a pass.", []),
            "shoal_replica_uptime_seconds": ("Seconds since a replica takes requests.", []),
            "shoal_replica_cold_start_seconds": ("From the start of its process until edges send requests.", []),
        }
        infos = GaugeMetricFamily("shoal_replica_info", "A replica's variant; always 1.", labels=(*LABELS, "variant"))
        for labels, member, report in self._each():
            values = (report.ongoing, report.passes.queued_rows, report.uptime_s, report.cold_start_s or None)
            for (_, series), value in zip(gauges.values(), values, strict=True):
                if value is not None:  # nobody times the start of the control application
                    series.append((labels, value))
            infos.add_metric((*labels, member.variant), 1.0)
        for name, (description, series) in gauges.items():
            family = GaugeMetricFamily(name, description, labels=LABELS)
            for labels, value in series:
                family.add_metric(labels, value)
            yield family
        yield infos


def _make_counter(name: str, description: str, values: Iterable[Value], *labels: str) -> Metric:
    family = CounterMetricFamily(name, description, labels=(*LABELS, *labels))
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _make_histogram(name: str, description: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, description, labels=(*LABELS, *labels))


def _add_seconds(
    family: HistogramMetricFamily, labels: tuple[str, ...], counts: Sequence[int], sum_s: float, step: int
) -> None:
    """Write every step-th bound of a latency histogram, and infinity."""
    totals = list(accumulate(counts)) or [0] * (len(BOUNDS_S) + 1)
    buckets = [(f"{BOUNDS_S[index]:.4g}", totals[index]) for index in range(0, len(BOUNDS_S), step)]
    family.add_metric(labels, [*buckets, ("+Inf", totals[-1])], sum_s)


def _bucket_rows(pass_rows: Mapping[int, int]) -> list[tuple[str, float]]:
    """Passes by powers of two of their rows."""
    bounds = [2**exponent for exponent in range(MAX_PASS_ROWS_EXPONENT + 1)]
    buckets = [(str(bound), float(sum(n for rows, n in pass_rows.items() if rows <= bound))) for bound in bounds]
    return [*buckets, ("+Inf", float(sum(pass_rows.values())))]
