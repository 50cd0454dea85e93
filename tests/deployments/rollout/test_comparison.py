"""Verdicts on simulated rollouts: one that is no worse stays, a worse one is found, too little decides nothing."""

import json
import math

import numpy as np
import pytest

from deployments.rollout.comparison import AGREEMENT, ERRORS, MEDIAN, REFUSALS, TAIL, Block, Comparison
from deployments.rollout.criteria import Criteria
from deployments.rollout.evidence import describe_evidence, describe_verdict
from deployments.scaling.report import BUCKETS, LatencyHistogram
from tests.benchmarks.canary import compute_buckets, simulate


def make_block(requests: int, failures: int = 0, latency_s: float = 0.01, refusals: int = 0) -> Block:
    histogram = LatencyHistogram()
    for _ in range(requests - failures - refusals):
        histogram.record(latency_s)
    counts = np.array(histogram.counts, dtype=float)
    return Block(np.asarray(requests), np.asarray(failures), np.asarray(refusals), counts)


def test_versions_that_are_the_same_are_rolled_back_in_at_most_5_percent() -> None:
    rollouts = simulate(40, 800, 0.01, seed=11)

    # Four standard deviations over 5%.
    assert rollouts.rolled_back <= 2 + 4 * math.sqrt(40 * 0.05 * 0.95)
    assert np.isfinite(rollouts.promoted_at).mean() > 0.9


def test_doubled_errors_are_found_and_never_promoted() -> None:
    rollouts = simulate(20, 800, 0.01, error_factor=2, seed=12)

    assert rollouts.rolled_back == 20
    assert np.median(rollouts.requests) < 3000


def test_a_version_that_is_twice_as_slow_is_found() -> None:
    rollouts = simulate(20, 200, 0.01, slower=2, seed=13)

    assert rollouts.rolled_back == 20


@pytest.mark.parametrize(("failures", "is_decided"), [(0, False), (1, False), (19, True)])
def test_twenty_requests_promote_nothing(failures: int, is_decided: bool) -> None:
    comparison = Comparison(Criteria(), 3)
    comparison.observe(make_block(380, 4), make_block(20, failures))

    is_worse, has_passed = comparison.decide()

    assert not has_passed
    assert bool(is_worse) == is_decided


def test_no_traffic_decides_nothing_and_says_what_is_missing() -> None:
    comparison = Comparison(Criteria(), 3)
    comparison.observe(make_block(0), make_block(0))

    evidence = describe_evidence(comparison)

    assert not any(comparison.decide())
    assert {each.verdict for each in evidence} == {"undecided"}
    assert "errors: no request has come to the new version yet" in describe_verdict(evidence, "undecided")


def test_failures_of_both_versions_in_an_outage_tell_nothing() -> None:
    comparison = Comparison(Criteria(), 3)
    for second in range(60):
        is_outage = 20 <= second < 40
        comparison.observe(make_block(190, 95 if is_outage else 1), make_block(10, 5 if is_outage else 0))

    assert not comparison.is_worse(ERRORS)


def test_a_step_needs_evidence_of_its_own_and_keeps_that_against_the_version() -> None:
    comparison = Comparison(Criteria(), 3)
    for _ in range(80):
        comparison.observe(make_block(95), make_block(25))
    assert comparison.decide()[1]
    against = float(comparison.get_worse_evidence(ERRORS))

    comparison.begin_step(np.asarray(True))

    assert not comparison.decide()[1]
    assert int(comparison.requests) == 0
    assert float(comparison.get_worse_evidence(ERRORS)) == against


def test_a_slow_version_is_named_by_what_is_slow() -> None:
    comparison = Comparison(Criteria(), 3)
    source = np.random.default_rng(4)
    fast, tail = compute_buckets(1.0), compute_buckets(4.0)
    for _ in range(100):
        # One in ten takes four times as long.
        canary = source.multinomial(45, fast) + source.multinomial(5, tail)
        comparison.observe(
            Block(np.asarray(200), np.asarray(0), np.asarray(0), source.multinomial(200, fast)),
            Block(np.asarray(50), np.asarray(0), np.asarray(0), canary),
        )

    assert comparison.is_worse(TAIL)
    assert not comparison.is_worse(MEDIAN)
    reason = describe_verdict(describe_evidence(comparison), "worse")
    assert reason.startswith("p99: ")
    assert "of the old version" in reason


def test_latencies_that_differ_by_less_than_the_slack_are_no_difference() -> None:
    comparison = Comparison(Criteria(), 3)
    for _ in range(60):
        comparison.observe(make_block(190, latency_s=0.0004), make_block(40, latency_s=0.002))

    assert not any(comparison.is_worse(name) for name in (MEDIAN, TAIL))
    assert comparison.decide()[1]


@pytest.mark.parametrize(("agreements", "verdict"), [(500, "better-or-equal"), (300, "worse"), (475, "undecided")])
def test_answers_must_agree_where_that_is_asked_for(agreements: int, verdict: str) -> None:
    comparison = Comparison(Criteria(min_agreement=0.95), 3)
    comparison.observe_pairs(np.asarray(500), np.asarray(agreements))

    evidence = {each.metric: each for each in describe_evidence(comparison)}

    assert evidence[AGREEMENT].verdict == verdict
    assert evidence[AGREEMENT].canary.value == agreements / 500


def test_alpha_is_shared_by_what_is_judged() -> None:
    assert math.exp(Comparison(Criteria(), 3).worse_threshold) == pytest.approx(80)
    assert math.exp(Comparison(Criteria(min_agreement=0.9), 3).worse_threshold) == pytest.approx(100)


def test_a_version_that_refuses_what_the_old_one_answers_is_found() -> None:
    comparison = Comparison(Criteria(), 3)
    # However rare refusals have been.
    comparison.observe(make_block(20_000), make_block(0))
    comparison.begin_step(np.asarray(True))
    comparison.observe(make_block(950), make_block(50, refusals=50, latency_s=0.001))

    assert comparison.is_worse(REFUSALS)
    reason = "refusals: 50 of 50 requests were refused, of the old version 0 of 950"
    assert describe_verdict(describe_evidence(comparison), "worse") == reason


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_mistakes_that_callers_make_with_both_versions_decide_nothing(share: float) -> None:
    comparison = Comparison(Criteria(), 3)
    for _ in range(200):
        # Of the few callers at the new version some more are wrong.
        canary = make_block(50, refusals=round(50 * (share + 0.02)))
        comparison.observe(make_block(200, refusals=round(200 * share)), canary)

    assert not comparison.is_worse(REFUSALS)
    assert comparison.decide()[1]


def test_a_comparison_goes_on_from_what_was_written() -> None:
    comparison, other = Comparison(Criteria(), 3), Comparison(Criteria(), 3)
    for _ in range(20):
        comparison.observe(make_block(90, 1), make_block(10))
    comparison.begin_step(np.asarray(True))
    comparison.observe(make_block(90, 1), make_block(30, 1))
    other.load(json.loads(json.dumps(comparison.dump())))
    for each in (comparison, other):
        each.observe(make_block(90), make_block(30, 2, latency_s=0.1))

    assert describe_evidence(comparison) == describe_evidence(other)
    assert int(other.step) == 1
    assert other.latencies.shape == (BUCKETS,)
