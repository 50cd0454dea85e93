"""Comparison of two versions: what their replicas report becomes evidence, and evidence a verdict.

Rollout walk: progress.py -> [comparison.py] -> sequential.py
Four events are counted on both sides: a failure (a status of 500 or more), a refusal (400 to 498), an answer that is
slower than the old version's median, and one slower than its p99. Refusals are callers' mistakes, or those of a version
with another schema; it is worse only by what exceeds refusal_margin. The two latter are taken where the old version's
quantile was before the block, so that a machine that is busy for a while makes both sides slow; of the new version only
what exceeds that by latency_ratio counts. With shadow copies, a fifth is counted: pairs of answers that do not agree.

Each has an e-process against "it is not worse", at alpha divided by their number: one for the whole rollout, the mean
of one that begins at each step, so that neither looks nor steps spend anything. And one against "it is worse by the
margin", anew in each step; all must reject before a version is promoted, so none of them has to share promote_alpha.
"""
# Shapes: arrays are (...), one element for each rollout, with the two versions or the histogram's buckets in front or
# behind: (2, ...), (..., BUCKETS). A controller has one rollout, a simulation a thousand.

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.rollout.criteria import Criteria
from deployments.rollout.sequential import (
    ODDS_RATIOS,
    Array,
    Outcomes,
    compute_noninferior_bets,
    compute_rate_bets,
    compute_worse_bets,
    log_mean,
)
from deployments.scaling.report import BOUNDS_S, BUCKETS

ERRORS, REFUSALS, MEDIAN, TAIL, AGREEMENT = "errors", "refusals", "p50", "p99", "agreement"
EXPECTED_RATES = {ERRORS: 0.01, REFUSALS: 0.01, MEDIAN: 0.5, TAIL: 0.01}
QUANTILES = {MEDIAN: 0.5, TAIL: 0.99}
# Before the old version has answered so many, its quantiles are not known.
MIN_ANSWERS = 100


@dataclass(frozen=True)
class Block:
    """What came of the requests of a second, on one side.

    Attributes:
        requests: that were answered, shape (...).
        failures: of them.
        refusals: of them, with a status of 400 to 498.
        latencies: counts of the histogram of the other ones, shape (..., BUCKETS).
    """

    requests: Array
    failures: Array
    refusals: Array
    latencies: Array


class Metric:
    """Evidence on one kind of event."""

    def __init__(
        self, shape: tuple[int, ...], expected_rate: float, margin: float, steps: int, worse_margin: float = 0.0
    ) -> None:
        self.margin, self.worse_margin = margin, worse_margin
        self.outcomes = Outcomes(shape, expected_rate)
        self.step_totals, self.step_events = np.zeros((2, *shape)), np.zeros((2, *shape))
        self.worse = np.zeros((steps, len(ODDS_RATIOS), *shape))
        self.noninferior = np.zeros((2, *shape))

    def observe(self, totals: Array, events: Array, step: Array) -> None:
        """Add a block of shape (2, ...), in a step of shape (...)."""
        bets = compute_worse_bets(self.outcomes, totals, events, self.worse_margin)
        for index in range(len(self.worse)):
            self.worse[index] += np.where(step >= index, bets, 0.0)
        self.noninferior = self.noninferior + compute_noninferior_bets(self.outcomes, totals, events, self.margin)
        self.outcomes.add(totals, events)
        self.step_totals, self.step_events = self.step_totals + totals, self.step_events + events

    def begin_step(self, mask: Array) -> None:
        """Begin a step, where the mask says so."""
        self.step_totals, self.step_events = np.where(mask, 0, self.step_totals), np.where(mask, 0, self.step_events)
        self.noninferior = np.where(mask, 0.0, self.noninferior)

    @property
    def worse_evidence(self) -> Array:
        """Log of the e-process against "not worse"."""
        return log_mean(self.worse.reshape(-1, *self.worse.shape[2:]))

    @property
    def noninferior_evidence(self) -> Array:
        """Log of the e-process of this step against "worse by the margin"."""
        return log_mean(self.noninferior)


class Comparison:
    """The evidence of a rollout, or of many side by side."""

    def __init__(self, criteria: Criteria, steps: int, shape: tuple[int, ...] = ()) -> None:
        """Begin without evidence.

        Args:
            criteria: margins and levels.
            steps: in which versions are compared; with all requests at the new version there is no comparison.
            shape: () for one rollout.
        """
        self.criteria, self.step = criteria, np.zeros(shape, dtype=int)
        margins = {
            ERRORS: criteria.error_margin,
            REFUSALS: criteria.refusal_margin,
            MEDIAN: criteria.median_margin,
            TAIL: criteria.tail_margin,
        }
        worse_margins = {REFUSALS: criteria.refusal_margin}
        self.metrics = {
            name: Metric(shape, rate, margins[name], steps, worse_margins.get(name, 0.0))
            for name, rate in EXPECTED_RATES.items()
        }
        # Of the old version, since the rollout's start.
        self.latencies = np.zeros((*shape, BUCKETS))
        # Of both versions in this step, for people.
        self.step_latencies = np.zeros((2, *shape, BUCKETS))
        self.pairs, self.agreements = np.zeros(shape), np.zeros(shape)
        self._slow_bounds = _find_slow_bounds(criteria)

    @property
    def worse_threshold(self) -> float:
        """Log of the evidence at which a version is rolled back."""
        count = len(self.metrics) + (self.criteria.min_agreement is not None)
        return math.log(count / self.criteria.alpha)

    @property
    def noninferior_threshold(self) -> float:
        """Log of the evidence at which a metric is good enough for the next step."""
        return -math.log(self.criteria.promote_alpha)

    def observe(self, stable: Block, canary: Block) -> None:
        """Add what came of a second's requests."""
        totals = _pair(stable.requests, canary.requests)
        self.metrics[ERRORS].observe(totals, _pair(stable.failures, canary.failures), self.step)
        self.metrics[REFUSALS].observe(totals, _pair(stable.refusals, canary.refusals), self.step)
        answers = _pair(stable.latencies.sum(-1), canary.latencies.sum(-1))
        is_known = self.latencies.sum(-1) >= MIN_ANSWERS
        for name, q in QUANTILES.items():
            index = _find_quantile(self.latencies, q)
            slow = _pair(
                _count_above(stable.latencies, index), _count_above(canary.latencies, self._slow_bounds[index])
            )
            self.metrics[name].observe(np.where(is_known, answers, 0), np.where(is_known, slow, 0), self.step)
        self.latencies = self.latencies + stable.latencies
        self.step_latencies = self.step_latencies + np.stack((stable.latencies, canary.latencies))

    def observe_pairs(self, pairs: Array, agreements: Array) -> None:
        """Add answers of both versions to the same requests, and how many of them agree."""
        self.pairs, self.agreements = self.pairs + pairs, self.agreements + agreements

    def begin_step(self, mask: Array) -> None:
        """Go on to the next step, where the mask says so."""
        self.step = np.where(mask, self.step + 1, self.step)
        for metric in self.metrics.values():
            metric.begin_step(mask)
        self.step_latencies = np.where(np.asarray(mask)[..., None], 0, self.step_latencies)

    def is_worse(self, name: str) -> Array:
        """Whether the new version is shown to be worse in a metric."""
        return np.asarray(self.get_worse_evidence(name) >= self.worse_threshold)

    def is_noninferior(self, name: str) -> Array:
        """Whether the new version is shown, in this step, not to be worse by the margin."""
        return np.asarray(self.get_noninferior_evidence(name) >= self.noninferior_threshold)

    def get_worse_evidence(self, name: str) -> Array:
        """Log of the e-process against "it is not worse"."""
        return self._get_agreement_bets()[0] if name == AGREEMENT else self.metrics[name].worse_evidence

    def get_noninferior_evidence(self, name: str) -> Array:
        """Log of the e-process against "it is worse by the margin"."""
        return self._get_agreement_bets()[1] if name == AGREEMENT else self.metrics[name].noninferior_evidence

    @property
    def deciding_metrics(self) -> tuple[str, ...]:
        """The metrics that decide."""
        return (*self.metrics, *((AGREEMENT,) if self.criteria.min_agreement is not None else ()))

    @property
    def requests(self) -> Array:
        """Requests to the new version in this step."""
        return np.asarray(self.metrics[ERRORS].step_totals[1])

    def decide(self) -> tuple[Array, Array]:
        """Where the new version is to be rolled back, and where it has passed the step; elsewhere it is undecided."""
        is_worse = np.any([self.is_worse(name) for name in self.deciding_metrics], axis=0)
        has_passed = np.all([self.is_noninferior(name) for name in self.deciding_metrics], axis=0)
        return is_worse, has_passed & ~is_worse & (self.requests >= self.criteria.min_requests)

    def _get_agreement_bets(self) -> tuple[Array, Array]:
        assert self.criteria.min_agreement is not None
        return compute_rate_bets(self.pairs, self.agreements, self.criteria.min_agreement)

    def dump(self) -> dict[str, Any]:
        """What `load` needs, as JSON's types."""
        metrics = {
            name: [
                each.outcomes.totals,
                each.outcomes.events,
                each.step_totals,
                each.step_events,
                each.worse,
                each.noninferior,
            ]
            for name, each in self.metrics.items()
        }
        arrays = [self.step, self.latencies, self.step_latencies, self.pairs, self.agreements]
        return {
            "metrics": {name: [array.tolist() for array in values] for name, values in metrics.items()},
            "arrays": [array.tolist() for array in arrays],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what `dump` returned."""
        for name, values in state["metrics"].items():
            metric, arrays = self.metrics[name], [np.asarray(value, dtype=np.float64) for value in values]
            metric.outcomes.totals, metric.outcomes.events, metric.step_totals, metric.step_events = arrays[:4]
            metric.worse, metric.noninferior = arrays[4:]
        step, *arrays = (np.asarray(value) for value in state["arrays"])
        self.step = step
        self.latencies, self.step_latencies, self.pairs, self.agreements = arrays


def _pair(stable: Array, canary: Array) -> Array:
    return np.stack((np.asarray(stable, dtype=np.float64), np.asarray(canary, dtype=np.float64)))


def _find_quantile(latencies: Array, q: float) -> Any:
    """The bucket of a quantile."""
    below = latencies.cumsum(-1)
    return np.minimum((below < np.ceil(q * below[..., -1:])).sum(-1), BUCKETS - 1)


def _count_above(latencies: Array, index: Any) -> Array:
    """Count what is in buckets above one."""
    below = latencies.cumsum(-1)
    return np.asarray(below[..., -1] - np.take_along_axis(below, np.asarray(index)[..., None], -1)[..., 0])


def _find_slow_bounds(criteria: Criteria) -> Any:
    """For each bucket, the highest one in which an answer is not yet slow beside it."""
    bounds_s = np.array(BOUNDS_S)
    limits_s = np.maximum(bounds_s * criteria.latency_ratio, bounds_s + criteria.latency_slack_s)
    return np.minimum(np.append(np.searchsorted(bounds_s, limits_s * (1 - 1e-9)), BUCKETS - 1), BUCKETS - 1)
