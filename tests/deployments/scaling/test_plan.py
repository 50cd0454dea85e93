"""Plans: enough replicas and no more, and goals that nothing meets."""

import pytest

from deployments.scaling.load import CALL_RATE, CAPACITY, ROW_RATE
from deployments.scaling.plan import (
    TARGET_SHARE,
    GoalCapacity,
    Overhead,
    Plan,
    build_service,
    choose_plan,
    choose_targets,
    find_max_rate,
    plan_replicas,
)
from deployments.scaling.simulation import simulate
from tests.deployments.scaling.profiles import build_affine_profile
from training.errors import UserError

PROFILE = build_affine_profile(0.002, 0.0002)
OVERHEAD = Overhead(request_s=1e-4, path_s=5e-4, source="here")
SLO_S = 0.02


def plan(rps: float, slo_p99_s: float = SLO_S, **options: float) -> Plan:
    return plan_replicas(PROFILE, OVERHEAD, rps=rps, slo_p99_s=slo_p99_s, **options)  # type: ignore[arg-type]


def test_the_planned_replicas_meet_the_goal_and_one_less_would_not() -> None:
    planned = plan(8000)
    service = build_service(PROFILE, SLO_S, OVERHEAD)

    def simulate_p99_s(replicas: int) -> float:
        return simulate(service, 8000 / TARGET_SHARE, replicas=replicas).p99_s

    assert planned.p99_s <= simulate_p99_s(planned.replicas) <= SLO_S < simulate_p99_s(planned.replicas - 1)
    assert planned.replicas > 2
    assert planned.utilization == pytest.approx(8000 / planned.replicas / service.compute_capacity())


def test_replicas_never_fall_with_the_rate() -> None:
    replicas = [plan(rps).replicas for rps in (1, 2000, 8000, 200_000)]

    assert replicas == sorted(replicas)
    assert replicas[0] == 1
    assert replicas[-1] > 16


def test_bursts_larger_requests_and_tighter_goals_need_more() -> None:
    base = plan(6000)

    for other in (plan(6000, cv=6), plan(6000, rows=4), plan(6000, 0.006)):
        assert other.replicas > base.replicas


def test_the_most_that_a_replica_answers_is_where_the_goal_is_just_met() -> None:
    service = build_service(PROFILE, SLO_S, OVERHEAD)

    rate = find_max_rate(service, SLO_S)

    assert simulate(service, rate).p99_s <= SLO_S
    assert simulate(service, 1.1 * rate).p99_s > SLO_S
    assert 0.5 * service.compute_capacity() < rate < service.compute_capacity()


def test_a_plan_says_why() -> None:
    planned = plan(1000)

    assert f"a pass of {planned.pass_rows} rows lasts" in planned.reason
    assert "0.1 ms of the server for each request" in planned.reason
    assert f"p99 within 20 ms, and is given {TARGET_SHARE:.0%} of that" in planned.reason
    assert planned.overhead == OVERHEAD


def test_a_goal_that_nothing_meets_is_refused_with_the_best_that_is_in_reach() -> None:
    with pytest.raises(UserError, match=r"no number of replicas \(fp32, a processor\).* within 0.001 s") as refused:
        plan(1, 0.001)

    reachable_s = float(str(refused.value).split("--slo-p99 ")[1].split()[0])
    assert plan(1, reachable_s).replicas == 1
    assert reachable_s == pytest.approx(0.003, rel=0.1)


def test_of_several_variants_the_one_of_the_fewest_processors_is_chosen() -> None:
    fp32 = plan(4000)
    two_threads = fp32.model_copy(update={"threads": 2, "replicas": fp32.replicas - 1})
    bf16 = fp32.model_copy(update={"variant": "bf16", "p99_s": fp32.p99_s / 2})

    assert choose_plan([fp32, two_threads, bf16]) is bf16


def test_a_replica_is_given_a_share_of_what_it_answers_within_the_goal() -> None:
    targets = choose_targets(PROFILE, SLO_S)

    service = build_service(PROFILE, SLO_S, Overhead())
    at_target = simulate(service, TARGET_SHARE * targets.max_rows_per_s)
    assert at_target.p99_s < SLO_S
    assert targets.ongoing_requests == pytest.approx(at_target.ongoing, rel=0.15)
    assert targets.pass_rows == service.pass_rows
    assert choose_targets(PROFILE, 2 * SLO_S).ongoing_requests > targets.ongoing_requests


def test_a_replica_that_cannot_meet_the_goal_is_given_one_request() -> None:
    assert choose_targets(PROFILE, 1e-4).ongoing_requests == 1


def test_a_replica_can_take_more_rows_per_second_where_requests_have_many() -> None:
    profile = build_affine_profile(0.002, 0.0001).model_copy(update={"request_s": 1e-3, "row_s": 1e-5})
    capacity = GoalCapacity(profile, 0.1)

    idle = capacity.describe({CALL_RATE: 0.0, ROW_RATE: 0.0})
    single = capacity.describe({CALL_RATE: 50.0, ROW_RATE: 50.0})
    many = capacity.describe({CALL_RATE: 50.0, ROW_RATE: 1600.0})

    assert idle == single
    assert single[CAPACITY] == pytest.approx(TARGET_SHARE * choose_targets(profile, 0.1).max_rows_per_s)
    # A row costs 1.1 ms alone, and 0.14 ms among 32 of a request, passes being full in both.
    assert many[CAPACITY] / single[CAPACITY] == pytest.approx(
        (1e-3 + 1e-5 + 0.0084 / 64) / (1e-3 / 32 + 1e-5 + 0.0084 / 64), rel=0.1
    )
