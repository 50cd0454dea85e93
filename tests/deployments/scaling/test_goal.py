"""Replicas of a deployment with a latency goal: as many as their profiles ask for, and one more where they miss it."""

from typing import Any

import pytest

from deployments.scaling.load import BUSY_SHARE, CAPACITY, ONGOING, P99_S, ROW_RATE, TARGET_ONGOING
from deployments.scaling.policy import ReplicaPolicy
from tests.deployments.scaling.test_policy import build_context

SLO_S = 0.05
# Of each replica, by its profile.
GOAL = {CAPACITY: 100.0, TARGET_ONGOING: 2.0}


def recommend(replicas: int, **load: float) -> int:
    """The number of replicas after a minute in which each reports the same."""
    policy = ReplicaPolicy(0.0, 1.0, 1.0, pass_rows=64, slo_p99_s=SLO_S)
    values = {ONGOING: 1.0, ROW_RATE: 50.0, BUSY_SHARE: 0.9, P99_S: 0.01} | GOAL | load
    state: dict[str, Any] = {}
    target = replicas
    for second in range(60):
        metrics = {name: {f"replica-{index}": value for index in range(replicas)} for name, value in values.items()}
        target, state = policy(build_context(metrics, target, current_time=float(second), policy_state=state))
    return target


@pytest.mark.parametrize(
    ("replicas", "load", "expected"),
    [
        (1, {}, 1),
        (1, {ROW_RATE: 99.0}, 1),
        (1, {ROW_RATE: 250.0, ONGOING: 9.0}, 5),  # a queue: what is inside asks for more than the rate
        (2, {ROW_RATE: 250.0, ONGOING: 5.0}, 5),
        (4, {ROW_RATE: 40.0, ONGOING: 0.8}, 2),  # half-empty passes keep all of them busy
        (1, {P99_S: 0.051, ONGOING: 2.0}, 2),
        (1, {P99_S: 0.051, ONGOING: 2.0, BUSY_SHARE: 0.1}, 1),  # slow, but not for want of replicas
        (3, {P99_S: 0.051, ROW_RATE: 95.0, ONGOING: 2.0}, 4),
    ],
)
def test_replicas_follow_what_each_can_do_within_the_goal(replicas: int, load: dict[str, float], expected: int) -> None:
    assert recommend(replicas, **load) == expected


def test_a_replica_that_cannot_meet_the_goal_does_not_ask_for_infinitely_many() -> None:
    assert recommend(1, **{CAPACITY: 0.0, TARGET_ONGOING: 1.0, ONGOING: 3.0}) == 3
