"""What replicas report: quantiles within a bucket of the exact ones, and totals that readers subtract."""

import math
import random

import pytest

from deployments.scaling.report import BOUNDS_S, BUCKETS, LatencyHistogram, RequestStatistics, compute_quantile

BUCKET_WIDTH = 2 ** (1 / 8)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999, 1.0])
def test_a_quantile_is_the_upper_bound_of_its_bucket(q: float) -> None:
    source = random.Random(1)
    latencies_s = sorted(source.lognormvariate(-5, 1) for _ in range(10_000))
    histogram = LatencyHistogram()
    for latency_s in latencies_s:
        histogram.record(latency_s)
    exact = latencies_s[math.ceil(q * len(latencies_s)) - 1]
    assert exact <= histogram.compute_quantile(q) * (1 + 1e-9)
    assert histogram.compute_quantile(q) <= exact * BUCKET_WIDTH * (1 + 1e-9)
    assert histogram.sum_s == pytest.approx(sum(latencies_s))


@pytest.mark.parametrize("index", [0, 1, 77, BUCKETS - 2])
def test_a_bound_belongs_to_its_bucket(index: int) -> None:
    histogram = LatencyHistogram()
    histogram.record(BOUNDS_S[index] * (1 - 1e-9))
    histogram.record(BOUNDS_S[index] * (1 + 1e-9))
    assert (histogram.counts[index], histogram.counts[index + 1]) == (1, 1)


@pytest.mark.parametrize(("latency_s", "index"), [(0.0, 0), (1e-9, 0), (1e9, BUCKETS - 1)])
def test_what_is_outside_is_in_the_outermost_bucket(latency_s: float, index: int) -> None:
    histogram = LatencyHistogram()
    histogram.record(latency_s)
    assert histogram.counts[index] == 1
    assert math.isfinite(histogram.compute_quantile(0.5))


def test_nothing_has_no_quantile() -> None:
    assert math.isnan(compute_quantile([0] * BUCKETS, 0.5))


def test_latencies_are_of_answers_and_not_of_faults() -> None:
    statistics = RequestStatistics()
    for status in (200, 200, 422, 429, 499, 500, 504):
        statistics.record(status, 0.01)
    assert statistics.responses == {200: 2, 422: 1, 429: 1, 499: 1, 500: 1, 504: 1}
    assert sum(statistics.latencies.counts) == 4


def test_what_a_comparison_leaves_out_is_counted_apart() -> None:
    statistics = RequestStatistics()
    for method, status in (("POST", 200), ("POST", 422), ("POST", 500), ("GET", 200), ("GET", 503), ("POST", 499)):
        statistics.record_request(method, status, 0.01)

    assert statistics.calls == 4
    assert statistics.probe_responses == {200: 1, 503: 1}
    assert sum(statistics.latencies.counts) == 3
    assert sum(statistics.excluded_latencies.counts) == 2
