"""What a replica reports for scaling: means between two reports, not what there was at one moment."""

import pytest

from deployments.scaling.load import BUSY_SHARE, CALL_RATE, ONGOING, P99_S, QUEUED_ROWS, ROW_RATE, LoadMeter
from deployments.scaling.report import LatencyHistogram, PassReport, ReplicaReport


class Replica:
    """Counts of a replica, and its clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ongoing = self.queued_rows = self.calls = 0
        self.busy_s = 0.0
        self.histogram = LatencyHistogram()

    def report(self) -> ReplicaReport:
        passes = PassReport(self.queued_rows, 0, 0, self.busy_s)
        return ReplicaReport(
            self.now_s, self.ongoing, {}, tuple(self.histogram.counts), passes, calls=self.calls, start_phases={}
        )


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def meter(replica: Replica) -> LoadMeter:
    return LoadMeter(replica.report, lambda: replica.now_s)


def test_means_are_over_the_samples_since_the_last_report(replica: Replica, meter: LoadMeter) -> None:
    for replica.ongoing, replica.queued_rows in ((4, 100), (2, 50), (0, 0)):
        meter.sample()
    replica.now_s, replica.calls, replica.busy_s = 2.0, 6, 1.5

    load = meter.measure()

    assert load == {ONGOING: 1.5, QUEUED_ROWS: 37.5, BUSY_SHARE: 0.75, CALL_RATE: 3.0, ROW_RATE: 0.0}
    replica.now_s = 3.0
    assert meter.measure() == {ONGOING: 0.0, QUEUED_ROWS: 0.0, BUSY_SHARE: 0.0, CALL_RATE: 0.0, ROW_RATE: 0.0}


def test_the_quantile_is_of_the_last_seconds(replica: Replica, meter: LoadMeter) -> None:
    replica.histogram.record(10.0)
    replica.now_s = 1.0
    assert meter.measure()[P99_S] == pytest.approx(10.0, rel=0.1)
    for replica.now_s in range(2, 14):
        replica.histogram.record(0.01)
        load = meter.measure()

    assert load[P99_S] == pytest.approx(0.01, rel=0.1)
