"""Exposition: what replicas report comes out as Prometheus' own parser reads it, counted once."""

import math
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.edge.state import Member, Route, Split
from deployments.observability.exposition import COPY_OUTCOMES, encode_metrics
from deployments.scaling.report import (
    CallReport,
    LatencyHistogram,
    PairReport,
    PassReport,
    ReplicaReport,
    RequestStatistics,
)

MEMBER = Member("r1", Route("flowers", 30.0), "127.0.0.1:1", 2, "fp32")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(content: bytes) -> Samples:
    families = text_string_to_metric_families(content.decode())
    samples = [sample for family in families for sample in family.samples]
    parsed = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(parsed) == len(samples), "a series comes twice"
    return parsed


def get(samples: Samples, name: str, **labels: str) -> float:
    (value,) = [v for (each, has), v in samples.items() if each == name and labels.items() <= dict(has).items()]
    return value


def make_report(**fields: object) -> ReplicaReport:
    statistics = RequestStatistics()
    for latency_s in (0.001, 0.01, 0.01, 5.0):
        statistics.record(200, latency_s)
    statistics.record(503, 0.0001)
    latencies = statistics.latencies
    return ReplicaReport(
        10.0, 3, dict(statistics.responses), tuple(latencies.counts), latency_s=latencies.sum_s, **fields
    )  # type: ignore[arg-type]


def test_requests_are_told_by_model_version_and_status() -> None:
    calls = CallReport({200: 7}, tuple(LatencyHistogram().counts))
    report = make_report(errors={"queue_full": 1}, handle_calls=calls, start_phases={"load": 4.0, "join": 0.5})
    samples = parse(encode_metrics([(MEMBER, report)], {"edge": True, "ray": False}))

    labels = {"model": "flowers", "version": "2", "replica": "r1"}
    assert get(samples, "shoal_requests_total", source="edge", status="200", **labels) == 4
    assert get(samples, "shoal_requests_total", source="edge", status="503", **labels) == 1
    assert get(samples, "shoal_requests_total", source="handle", status="200", **labels) == 7
    assert get(samples, "shoal_request_errors_total", code="queue_full", **labels) == 1
    assert get(samples, "shoal_ongoing_requests", **labels) == 3
    assert get(samples, "shoal_replica_cold_start_seconds", **labels) == 4.5
    assert get(samples, "shoal_replica_info", variant="fp32", **labels) == 1
    assert get(samples, "shoal_scrape_part_up", part="ray") == 0


def test_a_latency_is_within_19_percent_of_its_bound_and_buckets_add_up() -> None:
    samples = parse(encode_metrics([(MEMBER, make_report())], {}))
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "shoal_request_duration_seconds_bucket"
    )
    assert len(buckets) == 87
    assert buckets[-1] == (math.inf, 4)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert all(after / before < 1.19 for (before, _), (after, _) in pairwise(buckets[:-1]))
    first_with_three = next(bound for bound, value in buckets if value == 3)
    assert 0.01 <= first_with_three < 0.01 * 1.19
    assert get(samples, "shoal_request_duration_seconds_sum", source="edge") == pytest.approx(5.021)
    assert get(samples, "shoal_request_duration_seconds_count", source="edge") == 4


def test_passes_have_rows_padding_wait_and_compute() -> None:
    waits, durations = LatencyHistogram(), LatencyHistogram()
    for wait_s in (0.001, 0.1):
        waits.record(wait_s)
    durations.record(0.02)
    passes = PassReport(
        5,
        3,
        70,
        0.02,
        time_steps=1000,
        padding=150,
        waits=tuple(waits.counts),
        wait_s=waits.sum_s,
        durations=tuple(durations.counts),
        pass_rows={1: 1, 5: 1, 64: 1},
        generated_tokens=9,
    )
    samples = parse(encode_metrics([(MEMBER, make_report(passes=passes))], {}))

    assert get(samples, "shoal_queued_rows") == 5
    assert get(samples, "shoal_pass_rows_sum") == 70
    assert [get(samples, "shoal_pass_rows_bucket", le=le) for le in ("1", "4", "8", "64", "+Inf")] == [1, 1, 2, 3, 3]
    assert get(samples, "shoal_pass_duration_seconds_sum") == 0.02
    assert get(samples, "shoal_queue_wait_seconds_count") == 2
    assert get(samples, "shoal_pass_time_steps_total") == 1000
    assert get(samples, "shoal_pass_padding_time_steps_total") == 150
    assert get(samples, "shoal_generated_tokens_total") == 9


def test_a_canary_is_a_version_of_its_model_with_a_weight() -> None:
    canary = Member("r2", Route("flowers.canary", 30.0), "127.0.0.1:2", 3, "fp32")
    copies = PairReport(pairs=10, agreements=8, dropped=1)
    reports = [(MEMBER, make_report(copies=copies)), (canary, make_report())]
    samples = parse(encode_metrics(reports, {}, (Split("flowers", 3, 500, "caller"),)))

    for version in ("2", "3"):
        assert get(samples, "shoal_requests_total", model="flowers", version=version, status="200") == 4
    assert get(samples, "shoal_canary_weight_ratio", model="flowers", version="3") == 0.05
    outcomes = {
        outcome: get(samples, "shoal_shadow_copies_total", version="2", outcome=outcome) for outcome in COPY_OUTCOMES
    }
    assert outcomes == {"agreed": 8, "differed": 2, "dropped": 1}


def test_what_was_not_computed_is_told_with_the_reason() -> None:
    passes = PassReport(refused=4, late_rows=5, abandoned_rows=6, waits=tuple(LatencyHistogram().counts))
    samples = parse(encode_metrics([(MEMBER, make_report(passes=passes))], {}))

    assert get(samples, "shoal_refused_requests_total") == 4
    assert get(samples, "shoal_dropped_rows_total", reason="late") == 5
    assert get(samples, "shoal_dropped_rows_total", reason="abandoned") == 6


def test_a_pipeline_has_no_passes_and_no_report_no_series() -> None:
    assert "shoal_pass_rows_count" not in encode_metrics([(MEMBER, make_report())], {}).decode()
    assert parse(encode_metrics([], {})) == {}
