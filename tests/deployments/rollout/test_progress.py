"""One rollout's way: it starts, takes steps with evidence and not without, and ends for a reason that it keeps."""

from pathlib import Path
from typing import Any

import pytest

from deployments.edge.state import Member, Route
from deployments.rollout.canary import Canary, CanarySpec, CanaryState
from deployments.rollout.progress import MAX_ABSENCE_S, Progress
from deployments.scaling.report import (
    CallReport,
    LatencyHistogram,
    PairReport,
    PassReport,
    ReplicaReport,
    RequestStatistics,
)
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.state.canary_store import CanaryStore
from training.errors import UserError

DEPLOYMENT = ModelDeployment(endpoint=ModelEndpoint(name="m", version=2, digest="d", uri="/m"))


class Replica:
    """What one replica has reported so far."""

    def __init__(self, name: str) -> None:
        self.member = Member(f"{name}-1", Route(name, 30.0), "127.0.0.1:1", version=2)
        self.statistics = RequestStatistics()
        self.failures, self.pairs, self.agreements = 0, 0, 0
        self.calls = CallReport()

    def answer(self, count: int, status: int = 200, latency_s: float = 0.01, method: str = "POST") -> None:
        for _ in range(count):
            self.statistics.record_request(method, status, latency_s)

    def report(self) -> tuple[Member, ReplicaReport]:
        passes, copies = PassReport(failures=self.failures), PairReport(self.pairs, self.agreements)
        return self.member, ReplicaReport(
            1.0, 0, passes=passes, copies=copies, handle_calls=self.calls, **self.statistics.dump()
        )


class Rollout:
    """A rollout that is looked at once a second."""

    def __init__(self, **fields: Any) -> None:
        values = {"min_step_s": 5.0, "steps": (25.0, 50.0, 100.0)} | fields
        spec = CanarySpec(deployment=DEPLOYMENT, stable_version=1, **values)
        self.canary = Canary(id=1, spec=spec, state=CanaryState(), requested="", started_s=0, ended_s=None)
        self.progress = Progress(self.canary)
        self.stable, self.new = Replica("m"), Replica("m.canary")
        self.now_s, self.clock_s = 1000.0, 50.0

    def look(self, *replicas: Replica, **fields: Any) -> CanaryState:
        self.now_s, self.clock_s = self.now_s + 1, self.clock_s + 1
        canary = self.canary.model_copy(update=fields)
        state = self.progress.look(canary, [each.report() for each in replicas], self.now_s, self.clock_s)
        self.canary = canary.model_copy(update={"state": state})
        return state

    def run(self, seconds: int, stable: int = 150, new: int = 50, **fields: Any) -> CanaryState:
        """Answer so many requests each second until the phase or the step changes."""
        before = self.canary.state
        for _ in range(seconds):
            self.stable.answer(stable)
            self.new.answer(new, **fields)
            state = self.look(self.stable, self.new)
            if (state.phase, state.step) != (before.phase, before.step):
                break
        return self.canary.state


def start(**fields: Any) -> Rollout:
    rollout = Rollout(**fields)
    rollout.look(rollout.stable, rollout.new)
    return rollout


def test_a_rollout_takes_no_requests_before_a_replica_of_it_joins() -> None:
    rollout = Rollout()
    assert rollout.look(rollout.stable).phase == "starting"
    assert rollout.canary.weight == 0

    assert rollout.look(rollout.stable, rollout.new).phase == "running"
    assert rollout.canary.weight == 2500


def test_a_good_version_passes_each_step_with_evidence_of_its_own() -> None:
    rollout = start()
    state = rollout.run(120)
    assert (state.phase, state.step, rollout.canary.weight) == ("running", 1, 5000)
    assert state.evidence == ()

    state = rollout.run(120, stable=100, new=100)

    # Its few replicas get no more while the others are replaced.
    assert (state.phase, rollout.canary.weight) == ("promoting", 5000)
    assert [(each.percent, each.verdict) for each in state.history] == [
        (25, "better-or-equal"),
        (50, "better-or-equal"),
    ]
    for step in state.history:
        assert step.ended_s - step.started_s >= 5
        assert step.reason.startswith("errors: 0 of ")
        assert {each.metric for each in step.evidence} == {"errors", "refusals", "p50", "p99"}


@pytest.mark.parametrize("traffic", [(0, 0), (1000, 0), (0, 1000), (5, 1)])
def test_too_little_traffic_never_promotes(traffic: tuple[int, int]) -> None:
    rollout = start(min_step_s=0)

    state = rollout.run(12, *traffic)

    assert (state.phase, state.step, state.verdict) == ("running", 0, "undecided")
    assert "needs" in state.reason or "no request has come" in state.reason


def test_a_failing_version_is_rolled_back_at_once_with_its_evidence() -> None:
    rollout = start()
    state = rollout.run(60, status=500)

    assert (state.phase, state.verdict, rollout.canary.weight) == ("rolled_back", "worse", 0)
    assert state.reason == "errors: 50 of 50 requests failed, of the old version 0 of 150"
    assert not rollout.canary.is_up
    (step,) = state.history
    assert step.evidence[0].verdict == "worse"


def test_callers_mistakes_are_no_failures_and_the_nets_own_are() -> None:
    rollout = start()
    for _ in range(3):
        rollout.stable.answer(150, status=422)
        assert rollout.run(1, stable=0, status=422).phase == "running"

    rollout.new.failures += 50
    assert rollout.run(1, status=422).phase == "rolled_back"
    assert rollout.canary.state.reason.startswith("errors: ")


def test_a_version_that_refuses_what_the_old_one_answers_is_rolled_back_however_fast() -> None:
    rollout = start()
    state = rollout.run(60, status=422, latency_s=0.001)

    assert (state.phase, state.verdict) == ("rolled_back", "worse")
    assert state.reason == "refusals: 50 of 50 requests were refused, of the old version 0 of 150"
    assert {each.metric: each.canary.total for each in state.evidence}["p50"] == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probes_promote_nothing(method: str) -> None:
    rollout = start(min_step_s=0)
    for _ in range(30):
        for replica in (rollout.stable, rollout.new):
            replica.answer(500, latency_s=0.001, method=method)
            replica.answer(500, status=503, method=method)
        state = rollout.run(1, 0, 0)

    assert (state.phase, state.step, state.verdict) == ("running", 0, "undecided")
    assert {each.canary.total for each in state.evidence} == {0}


def test_callers_that_leave_are_not_counted() -> None:
    rollout = start()
    rollout.run(3, status=499)

    assert rollout.canary.state.evidence[0].canary.total == 0


def test_a_slow_version_is_rolled_back() -> None:
    rollout = start()
    state = rollout.run(60, latency_s=0.05)

    assert state.phase == "rolled_back"
    assert state.reason.startswith("p50: ")


def test_a_canary_without_a_replica_is_rolled_back() -> None:
    rollout = start()
    for _ in range(round(MAX_ABSENCE_S) + 1):
        rollout.stable.answer(100)
        state = rollout.look(rollout.stable)

    assert state.phase == "rolled_back"
    assert "no replica of version 2 has taken requests for 30 s" in state.reason


def test_time_in_which_nobody_could_look_is_no_absence() -> None:
    rollout = start()
    # Directory or database was away for longer than a version may have no replica.
    rollout.clock_s += 2 * MAX_ABSENCE_S
    # Of the members that join again, the canary's is the later one.
    assert rollout.look(rollout.stable).phase == "running"
    assert rollout.look(rollout.stable, rollout.new).phase == "running"

    for _ in range(round(MAX_ABSENCE_S) + 1):
        state = rollout.look(rollout.stable)
    assert state.phase == "rolled_back"


def test_nets_that_load_after_the_cluster_has_started_are_waited_for() -> None:
    rollout = start()
    # Another controller, as after `shoal down` and `shoal up`; the old version is up first.
    rollout.progress = Progress(rollout.canary, start_timeout_s=100)
    for _ in range(90):
        assert rollout.progress.awaits_start(rollout.canary, [rollout.stable.report()])
        assert rollout.look(rollout.stable).phase == "running"
    assert not rollout.progress.awaits_start(rollout.canary, [rollout.new.report()])
    rollout.look(rollout.stable, rollout.new)
    for _ in range(90):
        # Neither reports: the cluster does not run.
        state = rollout.look()

    assert state.phase == "running"


@pytest.mark.parametrize("phase", ["starting", "running"])
def test_a_version_that_never_comes_up_is_rolled_back_after_the_time_of_a_deployment(phase: str) -> None:
    rollout = Rollout() if phase == "starting" else start()
    rollout.progress = Progress(rollout.canary, start_timeout_s=100)
    for _ in range(101):
        rollout.now_s -= 3600
        assert rollout.look().phase == phase

    assert (rollout.look().phase, rollout.canary.state.reason) == ("rolled_back", "version 2 is not up within 100 s")


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_step_lasts_as_long_whatever_becomes_of_the_wall_clock(jump_s: float) -> None:
    rollout = start(min_step_s=40)
    rollout.run(20)
    rollout.now_s += jump_s
    assert rollout.run(15).step == 0
    rollout.progress = Progress(rollout.canary, rollout.progress.dump())

    # The new controller's first look only begins; the step's age goes on.
    assert rollout.run(5).step == 0
    assert rollout.run(2).step == 1


def test_a_step_is_not_passed_with_the_evidence_of_the_one_before() -> None:
    rollout = start(min_step_s=0)
    evidence = rollout.progress.dump()
    while rollout.run(1).step == 0:
        evidence = rollout.progress.dump()
    # The database has the step, and what was known a second before it.
    rollout.progress = Progress(rollout.canary, evidence)

    rollout.run(2)

    assert rollout.canary.state.step == 1
    assert rollout.canary.state.evidence[0].canary.total == 50


def test_a_replica_that_is_replaced_counts_from_its_start() -> None:
    rollout = start()
    rollout.run(1)
    rollout.new = Replica("m.canary")
    rollout.new.member = Member("m.canary-2", rollout.new.member.route, "127.0.0.1:2", version=2)
    rollout.run(1)

    assert rollout.canary.state.evidence[0].canary.total == 100


@pytest.mark.parametrize(("requested", "phase"), [("promote", "promoting"), ("abort", "aborted")])
def test_a_person_decides_whatever_the_evidence(requested: str, phase: str) -> None:
    rollout = start()

    state = rollout.look(rollout.stable, rollout.new, requested=requested)

    assert (state.phase, state.reason) == (phase, "by request")
    assert rollout.canary.weight == (2500 if phase == "promoting" else 0)


def test_a_shadow_that_is_promoted_takes_no_request_before_it_is_its_model() -> None:
    rollout = start(steps=(), shadow_percent=50)

    state = rollout.look(rollout.stable, rollout.new, requested="promote")

    assert (state.phase, rollout.canary.weight, rollout.canary.shadow_percent) == ("promoting", 0, 0)


def test_a_shadow_takes_no_request_and_is_never_promoted_by_itself() -> None:
    rollout = start(steps=(), shadow_percent=50)
    assert rollout.canary.weight == 0
    assert rollout.canary.shadow_percent == 50
    for _ in range(40):
        rollout.stable.pairs, rollout.stable.agreements = rollout.stable.pairs + 20, rollout.stable.agreements + 19
        state = rollout.run(1)

    assert (state.phase, state.verdict) == ("running", "better-or-equal")
    (agreement,) = (each.canary for each in state.evidence if each.metric == "agreement")
    assert (agreement.total, agreement.events) == (800, 760)


def test_a_controller_that_was_killed_goes_on_with_the_evidence(tmp_path: Path) -> None:
    store = CanaryStore.open(ServingSettings(home=tmp_path))
    rollout = start()
    rollout.run(4)
    canary = store.begin(rollout.canary.spec)
    store.write_progress(canary.id, rollout.canary.state, rollout.progress.dump())

    (found,) = store.list_active()
    rollout.progress = Progress(found, store.read_comparison(found.id))
    # The first look only begins: what happened in between is not known.
    rollout.stable.answer(1000)
    rollout.look(rollout.stable, rollout.new)
    rollout.run(1)

    assert found.state.phase == "running"
    assert rollout.canary.state.evidence[0].stable is not None
    assert rollout.canary.state.evidence[0].stable.total == 5 * 150


def test_one_rollout_of_a_model_goes_on_at_a_time(tmp_path: Path) -> None:
    store = CanaryStore.open(ServingSettings(home=tmp_path))
    first = store.begin(Rollout().canary.spec)
    with pytest.raises(UserError, match="`shoal rollout abort m` first"):
        store.begin(Rollout().canary.spec)

    store.end(first.id)
    assert store.begin(Rollout().canary.spec).id > first.id


def test_calls_by_handles_are_compared_too() -> None:
    rollout = start()
    histogram = LatencyHistogram()
    for number in range(1, 401):
        histogram.record(0.01)
        counts, rollout.stable.calls = tuple(histogram.counts), CallReport({200: number}, tuple(histogram.counts))
        rollout.new.calls = CallReport({200: number // 2, 500: number // 2}, counts)
        state = rollout.look(rollout.stable, rollout.new)
        if state.phase == "rolled_back":
            break

    assert state.phase == "rolled_back"
    assert state.reason.startswith("errors: ")
