"""The simulation against what queueing theory knows in closed form, and against the batcher's own rules."""

import numpy as np
import pytest

from deployments.scaling.simulation import Service, draw_arrivals, simulate
from tests.deployments.scaling.profiles import build_affine_profile, build_profile

REQUESTS = 40_000


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_one_row_per_pass_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    """M/D/1: the mean wait is load * service / (2 * (1 - load))."""
    pass_s = 0.01
    service = Service(build_profile({1: pass_s}), pass_rows=1)

    result = simulate(service, load / pass_s, requests=REQUESTS)

    assert result.mean_wait_s == pytest.approx(load * pass_s / (2 * (1 - load)), rel=0.06)
    assert result.mean_s == pytest.approx(result.mean_wait_s + pass_s)
    assert result.busy_share == pytest.approx(load, rel=0.02)
    assert result.ongoing == pytest.approx(load / pass_s * result.mean_s)


def test_the_servers_time_for_a_request_occupies_and_the_way_only_delays() -> None:
    service = Service(build_profile({1: 0.006}), pass_rows=1, request_s=0.004, path_s=0.5)

    result = simulate(service, 50, requests=REQUESTS)

    assert result.busy_share == pytest.approx(0.5, rel=0.02)
    assert result.mean_wait_s == pytest.approx(0.5 * 0.01 / (2 * 0.5), rel=0.06)
    assert result.mean_s == pytest.approx(result.mean_wait_s + 0.01 + 0.5)


@pytest.mark.parametrize("row_s", [0.0, 0.0003])
@pytest.mark.parametrize(("pass_rows", "rows"), [(1, 1), (16, 1), (64, 1), (16, 3), (16, 40)])
def test_a_full_queue_is_answered_at_the_capacity(pass_rows: int, rows: int, row_s: float) -> None:
    service = Service(build_affine_profile(0.002, 0.0001), pass_rows, row_s=row_s)
    capacity = service.compute_capacity(rows)

    result = simulate(service, 3 * capacity, rows=rows, requests=4000)

    assert result.requests_per_s == pytest.approx(capacity, rel=0.02)
    assert result.busy_share == pytest.approx(1, abs=0.01)


def test_an_idle_replica_answers_in_a_pass_of_one_row() -> None:
    service = Service(build_affine_profile(0.002, 0.0001), 64, path_s=0.001)

    result = simulate(service, 1, requests=2000)

    assert result.p50_s == pytest.approx(0.0031)
    assert result.mean_wait_s < 1e-4


def test_a_request_waits_for_two_passes_at_most_while_all_that_wait_fit_into_one() -> None:
    """Why choose_pass_rows takes twice a pass: here it is the longest latency of all."""
    service = Service(build_affine_profile(0.002, 0.0001), 64)

    result = simulate(service, 0.5 * service.compute_capacity(), requests=REQUESTS)

    assert result.p99_s < 2 * service.profile.estimate_pass_s(64)


def test_a_large_request_is_split_and_does_not_hold_up_small_ones() -> None:
    large = simulate(Service(build_affine_profile(0.002, 0.0001), 16), 1, rows=40, requests=1000)

    assert large.p50_s == pytest.approx(3 * 0.002 + 40 * 0.0001)


def test_two_replicas_at_twice_the_rate_are_faster_than_one() -> None:
    """The edge sends a request to the replica with the fewest inside; two queues at random would be as one."""
    service = Service(build_profile({1: 0.01}), 1)

    one, two = (simulate(service, 80 * replicas, replicas=replicas, requests=REQUESTS) for replicas in (1, 2))

    assert two.mean_wait_s < 0.7 * one.mean_wait_s
    assert two.busy_share == pytest.approx(one.busy_share, rel=0.03)


def test_bursts_make_requests_wait_longer_and_regular_arrivals_do_not_wait() -> None:
    service = Service(build_profile({1: 0.01}), 1)

    waits_s = [simulate(service, 60, cv=cv, requests=REQUESTS).mean_wait_s for cv in (0, 1, 3)]

    assert waits_s[0] == 0
    assert waits_s[2] > 3 * waits_s[1] > 0


@pytest.mark.parametrize("cv", [0, 0.5, 1, 3])
def test_gaps_between_arrivals_have_the_rate_and_the_variation(cv: float) -> None:
    gaps_s = np.diff(draw_arrivals(200, REQUESTS, cv))

    assert gaps_s.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.06, abs=1e-6)
    assert np.allclose(draw_arrivals(400, 100, cv) * 2, draw_arrivals(200, 100, cv))


def test_noisy_passes_have_the_quantiles_of_those_that_were_timed() -> None:
    profile = build_profile({1: 0.01})
    timing = profile.passes[0].model_copy(update={"min_s": 0.008, "p90_s": 0.02, "p99_s": 0.05, "mean_s": 0.012})
    profile = profile.model_copy(update={"passes": (timing,)})

    noisy, steady = (simulate(Service(profile, 1, is_noisy=is_noisy), 0.1) for is_noisy in (True, False))

    assert noisy.p50_s == pytest.approx(0.01, rel=0.02)
    assert noisy.p99_s == pytest.approx(0.05, rel=0.1)
    assert (steady.p50_s, steady.p99_s) == (pytest.approx(0.012), pytest.approx(0.012))
