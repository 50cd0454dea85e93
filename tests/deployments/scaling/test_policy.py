"""The policy scales by what replicas report: to their target, without flapping, to zero only when nobody calls."""

import inspect
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.scaling.load import BUSY_SHARE, CALL_RATE, ONGOING, QUEUED_ROWS
from deployments.scaling.policy import ReplicaPolicy

TARGET = 16
PASS_ROWS = 64
# Serve decides more often, but replicas report once a second.
TICK_S = 0.5
CONFIG = AutoscalingConfig(min_replicas=0, max_replicas=8, target_ongoing_requests=TARGET)
FIELDS = list(inspect.signature(AutoscalingContext).parameters)


def build_context(metrics: dict[str, dict[str, float]] | None, target: int, **fields: Any) -> AutoscalingContext:
    """What Serve gives a policy."""
    values: dict[str, Any] = dict.fromkeys(FIELDS)
    values |= {"target_num_replicas": target, "aggregated_metrics": metrics, "config": CONFIG, "policy_state": {}}
    return AutoscalingContext(**(values | {"current_time": 0.0} | fields))


def build_metrics(*ongoing: float, **others: float) -> dict[str, dict[str, float]]:
    """What replicas have reported: each one's ongoing requests, and the first one's other values."""
    metrics = {ONGOING: {f"replica-{index}": value for index, value in enumerate(ongoing)}}
    return metrics | {name: {"replica-0": value} for name, value in others.items()}


class Simulation:
    """A model under Serve's loop: replicas that start slowly, loads reported each second, the real policy."""

    def __init__(self, demand: Callable[[float], float], *, start_s: float = 4.0, noise: float = 0.0, **delays: float):
        self._policy = ReplicaPolicy(
            **({"upscale_delay_s": 2.0, "downscale_delay_s": 60.0, "downscale_to_zero_delay_s": 300.0} | delays),  # type: ignore[arg-type]
            pass_rows=PASS_ROWS,
        )
        self._demand, self._start_s, self._noise = demand, start_s, noise
        self._source = random.Random(3)

    def run(self, duration_s: float, target: int = 1) -> Iterator[tuple[float, int]]:
        """Yield each change of the number of wanted replicas, with its time."""
        state: dict[str, Any] = {}
        started_s = [-self._start_s] * target
        reported, reported_s = 0.0, -1.0
        for tick in range(round(duration_s / TICK_S)):
            now_s = tick * TICK_S
            running = sum(now_s - each >= self._start_s for each in started_s)
            if now_s - reported_s >= 1:
                load = self._demand(now_s)
                reported, reported_s = max(0.0, self._source.gauss(load, self._noise * load)), now_s
            wanted, state = self._decide(now_s, target, running, reported, state)
            if wanted != target:
                yield now_s, wanted
            started_s = started_s[:wanted] + [now_s] * (wanted - target)
            target = wanted

    def _decide(self, now_s: float, target: int, running: int, ongoing: float, state: dict[str, Any]) -> Any:
        if not running and ongoing:
            # Serve's own rule, where a call waits at a handle and no replica runs.
            return max(1, target), state
        metrics = build_metrics(*[ongoing / running] * running, **{CALL_RATE: ongoing}) if running else {}
        context = build_context(metrics, target, current_time=now_s, policy_state=state)
        wanted, state = self._policy(context)
        return min(8, wanted), state


def recommend(metrics: dict[str, dict[str, float]], target: int) -> int:
    """The number of replicas after the same load for ten minutes."""
    policy, state = ReplicaPolicy(0.0, 1.0, 1.0, PASS_ROWS), {}
    for second in range(600):
        target, state = policy(build_context(metrics, target, current_time=float(second), policy_state=state))
    return target


@pytest.mark.parametrize(
    ("ongoing", "target", "expected"),
    [
        ((0, 0), 2, 0),
        ((1, 0), 2, 1),
        ((TARGET, 0), 2, 2),  # nearly too much for one: two stay
        ((TARGET * 0.85, 0), 2, 1),
        ((TARGET,), 1, 1),
        ((TARGET * 1.05,), 1, 1),  # within the tolerance
        ((TARGET * 1.2,), 1, 2),
        ((5 * TARGET,), 1, 5),
    ],
)
def test_there_are_as_many_replicas_as_bring_each_to_its_target(
    ongoing: tuple[float, ...], target: int, expected: int
) -> None:
    assert recommend(build_metrics(*ongoing), target) == expected


def test_rows_that_wait_ask_for_replicas_where_there_are_requests_for_them() -> None:
    queue = 20 * PASS_ROWS

    assert recommend(build_metrics(8, **{QUEUED_ROWS: queue}), 1) == 5
    assert recommend(build_metrics(1, **{QUEUED_ROWS: queue}), 1) == 1  # one large request: a second replica is idle


def test_replicas_stay_where_the_rest_would_be_too_busy() -> None:
    metrics = build_metrics(3, 3, **{BUSY_SHARE: 1.5})

    assert recommend(metrics, 2) == 2
    assert recommend(build_metrics(3, 3, **{BUSY_SHARE: 0.5}), 2) == 1


@pytest.mark.parametrize("metrics", [None, {}, {ONGOING: {}}, {"other": {"replica": 99.0}}])
def test_without_a_report_the_number_stays(metrics: dict[str, dict[str, float]] | None) -> None:
    assert recommend(metrics or {}, 4) == 4


def test_a_step_up_and_down_is_followed_once() -> None:
    simulation = Simulation(lambda now_s: 64 if 100 <= now_s < 400 else 1)

    changes = list(simulation.run(900))

    assert [wanted for _, wanted in changes] == [4, 2, 1] or [wanted for _, wanted in changes] == [4, 1]
    assert 102 <= changes[0][0] <= 105
    assert 460 <= changes[1][0] <= 466


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("load", [1.0, 1.1, 1.99, 2.0, 2.01, 2.2, 3.0])
def test_a_steady_load_on_a_threshold_does_not_flap(load: float, noise: float) -> None:
    simulation = Simulation(lambda _: load * TARGET, noise=noise)

    changes = list(simulation.run(900))

    directions = [later > earlier for (_, earlier), (_, later) in zip([(0.0, 1), *changes], changes, strict=False)]
    assert sum(a != b for a, b in itertools.pairwise(directions)) <= 1


def test_a_burst_each_twenty_seconds_keeps_the_replicas_that_it_needs() -> None:
    simulation = Simulation(lambda now_s: 64 if now_s % 20 < 5 else 8, downscale_delay_s=30.0)

    assert [wanted for _, wanted in simulation.run(600)] == [4]


def test_a_spike_shorter_than_the_delay_changes_nothing() -> None:
    simulation = Simulation(lambda now_s: 200 if 50 <= now_s < 52 else 4, upscale_delay_s=5.0)

    assert list(simulation.run(200)) == []


def test_a_model_sleeps_once_nobody_has_called_for_the_delay_and_wakes_at_a_call() -> None:
    simulation = Simulation(lambda now_s: 1 if now_s < 50 or 1000 <= now_s < 1010 else 0)

    changes = list(simulation.run(1600))

    assert [wanted for _, wanted in changes] == [0, 1, 0]
    assert 348 <= changes[0][0] <= 352
    assert 1000 <= changes[1][0] <= 1001.5
    assert changes[2][0] >= 1300


def test_rare_calls_that_no_sample_sees_keep_a_model_awake() -> None:
    policy, state, target = ReplicaPolicy(2.0, 10.0, 30.0, PASS_ROWS), {}, 1
    for second in range(300):
        metrics = build_metrics(0.0, **{CALL_RATE: 1.0 if second % 25 == 0 else 0.0})
        target, state = policy(build_context(metrics, target, current_time=float(second), policy_state=state))

        assert target == 1


@pytest.mark.parametrize(("shares_cores", "expected"), [(True, [1, 2, 4, 4, 8, 8]), (False, [1, 8, 8, 8, 8, 8])])
def test_where_replicas_share_cores_no_more_start_at_a_time_than_run(shares_cores: bool, expected: list[int]) -> None:
    policy, state = ReplicaPolicy(0.0, 1.0, 1.0, PASS_ROWS, shares_cores=shares_cores), {}
    target, targets = 1, []
    # One reports; two do; four do: each replica has as much as eight of them could take.
    for second, running in enumerate((1, 1, 2, 2, 4, 4)):
        metrics = build_metrics(*[8 * TARGET / running] * running)
        target, state = policy(build_context(metrics, target, current_time=float(second), policy_state=state))
        targets.append(target)

    assert targets == expected
    # One that is gone is replaced, and none of the others with it.
    metrics = build_metrics(8 * TARGET)
    assert policy(build_context(metrics, 8, current_time=9.0, policy_state=state))[0] == 8


@pytest.mark.parametrize(("downscale_s", "to_zero_s"), [(60.0, 6.0), (1.0, 6.0), (60.0, 90.0)])
def test_a_model_sleeps_when_nobody_has_called_for_its_own_delay(downscale_s: float, to_zero_s: float) -> None:
    policy, state, target, slept_s = ReplicaPolicy(0.0, downscale_s, to_zero_s, PASS_ROWS), {}, 1, None
    for second in range(200):
        calls = 1.0 if second < 20 else 0.0
        metrics = build_metrics(0.0, **{CALL_RATE: calls})
        target, state = policy(build_context(metrics, target, current_time=float(second), policy_state=state))
        if target == 0:
            slept_s = second - 19
            break

    assert slept_s is not None
    assert to_zero_s <= slept_s <= to_zero_s + 2


def test_the_state_stays_small() -> None:
    policy, state, source = ReplicaPolicy(60.0, 3600.0, 86_400.0, PASS_ROWS), {}, random.Random(1)
    for second in range(1000):
        metrics = build_metrics(source.uniform(0, 8 * TARGET))
        _, state = policy(build_context(metrics, 4, current_time=float(second), policy_state=state))

        assert all(len(window) <= 10 for window in state.values())
