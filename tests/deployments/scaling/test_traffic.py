"""Rates and quantiles of the last seconds are differences of reports, which may be lost or come late."""

from deployments.scaling.report import LatencyHistogram, ReplicaReport
from deployments.scaling.traffic import WINDOW_S, ReportHistory, Traffic, measure_traffic


def make_report(uptime_s: float, responses: dict[int, int], latencies_s: list[float] | None = None) -> ReplicaReport:
    histogram = LatencyHistogram()
    for latency_s in latencies_s or []:
        histogram.record(latency_s)
    return ReplicaReport(uptime_s, 0, responses, tuple(histogram.counts))


def test_a_replica_that_is_younger_than_the_window_is_measured_over_its_life() -> None:
    history = ReportHistory()
    history.add(50.0, make_report(2.0, {200: 4}, [0.001] * 4))
    history.add(51.0, make_report(3.0, {200: 8, 500: 1}, [0.001] * 4 + [0.1] * 4))

    traffic = measure_traffic([history.get_window()])

    assert (traffic.requests_per_s, traffic.errors_per_s) == (3.0, round(1 / 3, 3))
    assert traffic.p50_s is not None
    assert 0.001 <= traffic.p50_s < 0.0011


def test_the_window_slides_and_keeps_no_more_reports_than_it_needs() -> None:
    history = ReportHistory()
    for second in range(100):
        # Ten responses a second, then a hundred.
        history.add(1000.0 + second, make_report(500.0 + second, {200: 10 * second + 90 * max(0, second - 80)}))

    window = history.get_window()

    assert window.duration_s == WINDOW_S
    assert window.count_responses() == {200: 1000}
    assert len(history._reports) <= WINDOW_S + 2


def test_reports_that_were_lost_change_no_rate() -> None:
    history = ReportHistory()
    for second in (0, 1, 7, 9):
        history.add(float(second), make_report(500.0 + second, {200: 10 * second}))

    assert measure_traffic([history.get_window()]).requests_per_s == 10.0


def test_nothing_is_measured_of_no_replica() -> None:
    assert measure_traffic([]) == Traffic(
        requests_per_s=0, errors_per_s=0, p50_s=None, p99_s=None, ongoing=0, queued_rows=0
    )
