"""The sequential tests: against another library, against exact expectations, and against simulation."""

import itertools
import math

import numpy as np
import pytest
import ville
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.rollout.sequential import (
    Array,
    Outcomes,
    compute_growth,
    compute_noninferior_bets,
    compute_quantile_interval,
    compute_rate_bets,
    compute_rate_interval,
    compute_worse_bets,
    log_mean,
    project_to_margin,
)

FEW = settings(max_examples=30)
RATES = st.floats(0.001, 0.999)


def pair(stable: float, canary: float) -> Array:
    return np.array([float(stable), float(canary)])


def compute_expectation(
    bets: dict[tuple[int, int], Array], sizes: tuple[int, int], rates: tuple[float, float]
) -> Array:
    """The expectation of each bet's e-value, summed over all outcomes of two binomial samples."""
    total = np.zeros(len(next(iter(bets.values()))))
    for events, bet in bets.items():
        probability = 1.0
        for size, event, rate in zip(sizes, events, rates, strict=True):
            probability *= math.comb(size, event) * rate**event * (1 - rate) ** (size - event)
        total += probability * np.exp(bet)
    return total


def list_events(sizes: tuple[int, int]) -> list[tuple[int, int]]:
    return list(itertools.product(range(sizes[0] + 1), range(sizes[1] + 1)))


@FEW
@given(
    RATES,
    st.floats(0, 1),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.tuples(st.integers(0, 6), st.integers(0, 6)),
    st.integers(0, 30),
)
def test_no_rates_of_the_null_let_a_bet_on_worse_gain_in_expectation(
    rate: float, share: float, margin: float, sizes: tuple[int, int], seen: int
) -> None:
    outcomes = Outcomes((), 0.01)
    outcomes.add(pair(40, 30), pair(seen, 30 - seen))
    totals = pair(*sizes)
    bets = {events: compute_worse_bets(outcomes, totals, pair(*events), margin) for events in list_events(sizes)}

    # The second rate is any up to the first one and the margin.
    second = min(1.0, rate + margin) * share
    assert (compute_expectation(bets, sizes, (rate, second)) <= 1 + 1e-6).all()


@FEW
@given(
    RATES, st.floats(0, 1), st.floats(0.005, 0.3), st.tuples(st.integers(0, 6), st.integers(0, 6)), st.integers(0, 30)
)
def test_no_rates_of_the_null_let_a_bet_on_no_worse_gain_in_expectation(
    rate: float, excess: float, margin: float, sizes: tuple[int, int], seen: int
) -> None:
    first = rate * (1 - margin)
    second = min(1.0, first + margin + excess * (1 - first - margin))
    outcomes = Outcomes((), 0.05)
    outcomes.add(pair(40, 30), pair(seen, 30 - seen))
    totals = pair(*sizes)
    bets = {events: compute_noninferior_bets(outcomes, totals, pair(*events), margin) for events in list_events(sizes)}

    assert (compute_expectation(bets, sizes, (first, second)) <= 1 + 1e-6).all()


@FEW
@given(RATES, RATES, st.floats(0.005, 0.3), st.integers(1, 1000), st.integers(1, 1000))
def test_the_nearest_point_of_a_margin_is_no_farther_than_any_other(
    first: float, second: float, margin: float, first_size: int, second_size: int
) -> None:
    def divergence(rate: float, other: float) -> float:
        return rate * math.log(rate / other) + (1 - rate) * math.log((1 - rate) / (1 - other))

    def distance(null: float) -> float:
        return first_size * divergence(first, null) + second_size * divergence(second, null + margin)

    null = float(project_to_margin(np.array(first), np.array(second), pair(first_size, second_size), margin))

    # The margin's null is on either side of it.
    if abs(second - first - margin) > 1e-9:
        others = np.linspace(1e-6, 1 - margin - 1e-6, 200)
        assert distance(null) <= min(map(distance, others)) + 1e-6 * (first_size + second_size)


@pytest.mark.parametrize(("events", "total"), [(0, 1), (0, 50), (3, 200), (50, 50), (700, 1000)])
def test_the_interval_of_a_rate_is_another_librarys(events: int, total: int) -> None:
    stream = np.zeros(total)
    stream[:events] = 1
    oracle = ville.BernoulliCS(alpha=0.05, intersect=False).fit(stream)

    assert compute_rate_interval(events, total, 0.05) == pytest.approx(oracle.interval(), abs=1e-6)


def test_the_interval_of_a_rate_covers_it_at_every_look() -> None:
    source = np.random.default_rng(0)
    misses = 0
    for _ in range(100):
        events = source.binomial(20, 0.03, 30).cumsum()
        intervals = (compute_rate_interval(int(count), 20 * (look + 1), 0.1) for look, count in enumerate(events))
        misses += any(not low <= 0.03 <= high for low, high in intervals)
    # Four standard deviations over 10%.
    assert misses <= 100 * 0.1 + 4 * math.sqrt(100 * 0.09)


def test_the_interval_of_a_quantile_holds_the_quantile_and_lies_within_another_librarys() -> None:
    source = np.random.default_rng(1)
    values = source.integers(0, 100, 2000)
    counts = np.bincount(values, minlength=100).tolist()

    for q in (0.5, 0.9):
        lower, upper = compute_quantile_interval(counts, q, 0.05)
        low, high = ville.QuantileCS(q, alpha=0.05, t_opt=2000, intersect=False).fit(values.astype(float)).interval()

        assert lower <= 100 * q - 1 <= upper
        # That one takes the variance of the median's count for every quantile's.
        assert upper - lower <= 1.2 * (high - low) + 1


def test_a_quantile_of_few_values_may_be_any() -> None:
    assert compute_quantile_interval([0, 2, 1, 0], 0.99, 0.05) == (1, 3)


def test_two_equal_rates_are_rarely_told_apart_and_other_libraries_agree_on_a_difference() -> None:
    source = np.random.default_rng(2)
    assignment = (source.random(8_000) < 0.5).astype(float)
    events = (source.random(8_000) < np.where(assignment == 1, 0.06, 0.03)).astype(float)
    oracle = ville.BettingABTest(bounds=(0, 1), alpha=0.05).fit(events, assignment)
    outcomes, evidence, found_at = Outcomes((), 0.01), np.zeros(6), None
    for start in range(0, 8_000, 50):
        block = slice(start, start + 50)
        is_second = assignment[block] == 1
        totals = pair((~is_second).sum(), is_second.sum())
        counts = pair(events[block][~is_second].sum(), events[block][is_second].sum())
        evidence += compute_worse_bets(outcomes, totals, counts)
        outcomes.add(totals, counts)
        if found_at is None and log_mean(evidence) > math.log(1 / 0.05):
            found_at = start + 50

    stopping = oracle.stopping_time()
    assert found_at is not None
    assert stopping is not None
    # One-sided, and made for rates: no later than a bound for all bounded variables.
    assert found_at <= stopping + 50


def test_growth_says_how_many_outcomes_the_evidence_takes() -> None:
    rates, share, margin = np.array([0.01, 0.01]), 0.05, 0.01
    growth = compute_growth(rates, share, margin)
    source = np.random.default_rng(3)
    outcomes, evidence, count = Outcomes((), 0.01), np.zeros(2), 0
    while log_mean(evidence) < math.log(20):
        totals = pair(950, 50)
        events = source.binomial([950, 50], 0.01).astype(float)
        evidence = evidence + compute_noninferior_bets(outcomes, totals, events, margin)
        outcomes.add(totals, events)
        count += 50

    assert 0.2 <= count / (math.log(20) / growth) <= 5
    assert compute_growth(np.array([0.01, 0.03]), share, margin) == 0


def test_evidence_on_one_rate_points_to_its_side() -> None:
    below, above = compute_rate_bets(np.array(400.0), np.array(300.0), 0.9)
    assert float(below) > math.log(1e6)
    assert float(above) < 0
    below, above = compute_rate_bets(np.array(400.0), np.array(396.0), 0.9)
    assert float(above) > math.log(1e6)
    assert float(below) < 0
