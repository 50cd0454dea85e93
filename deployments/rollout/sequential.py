"""Sequential tests: e-processes of two Bernoulli rates, and confidence sequences; valid whenever they are looked at.

Rollout walk: comparison.py -> [sequential.py]
Knows nothing of requests or versions.

An e-process of a null hypothesis is a nonnegative process E with E[E_t] <= 1 at every stopping time t while the null
holds. By Ville's inequality it ever reaches 1/alpha with a probability of alpha at most (Ramdas, Grünwald, Vovk,
Shafer, Game-theoretic statistics and safe anytime-valid inference, Statistical Science 2023, doi:10.1214/23-STS894), so
to reject once it has is a test at level alpha, whenever one looks. A mean of e-processes is an e-process.

Two samples: Turner, Ly, Grünwald, Generic E-variables for exact sequential k-sample tests that allow for optional
stopping, 2024, doi:10.1016/j.jspi.2023.106116; other nulls than equality: Turner, Grünwald, Exact anytime-valid
confidence intervals for contingency tables and beyond, 2023, doi:10.1016/j.spl.2023.109835. For a block of n_a and n_b
outcomes, a convex null set H and any alternative (a1, b1), take (a0, b0) of H that is nearest to it in
n_a KL(a1 | a) + n_b KL(b1 | b). Then the likelihood ratio of the two is an e-variable: under (a, b) of H it has the
expectation f_a^n_a f_b^n_b, f_a = 1 + (a - a0)(a1 - a0) / (a0 (1 - a0)), f_b likewise; that is at most the
(n_a + n_b)-th power of their weighted mean, which is at most 1 since (a0, b0) is nearest. Alternatives and null points
may change from block to block as the past says, so both rates may drift together, as in an outage that hits both.
"""
# Shapes: all arrays are of one shape, one element for each comparison; () for a single one.

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The odds that `WorseTest` bets on: the second rate is so many times the first.
ODDS_RATIOS = (1.3, 1.6, 2.0, 3.0, 6.0, 20.0)
# An estimate begins with so many outcomes at the rate that is expected.
PRIOR_OUTCOMES = 50.0
_BISECTIONS = 40
_TINY = 1e-12


class Outcomes:
    """Counts of two samples so far, and the rates that they lead to expect."""

    def __init__(self, shape: tuple[int, ...], expected_rate: float) -> None:
        self.expected_rate = expected_rate
        self.totals = np.zeros((2, *shape))
        self.events = np.zeros((2, *shape))

    def add(self, totals: Array, events: Array) -> None:
        """Add a block: outcomes and events of the first and of the second sample, shape (2, ...)."""
        self.totals = self.totals + totals
        self.events = self.events + events

    @property
    def rates(self) -> Array:
        """An estimate of each rate, strictly within 0 and 1."""
        return np.asarray((self.events + PRIOR_OUTCOMES * self.expected_rate) / (self.totals + PRIOR_OUTCOMES))

    @property
    def pooled_rate(self) -> Array:
        """An estimate of the one rate that both have."""
        events = self.events.sum(0) + PRIOR_OUTCOMES * self.expected_rate
        return np.asarray(events / (self.totals.sum(0) + PRIOR_OUTCOMES))


def compute_worse_bets(outcomes: Outcomes, totals: Array, events: Array, margin: float = 0.0) -> Array:
    """Log e-values of a block against "the second rate is higher by `margin` at most", one for each of ODDS_RATIOS.

    Args:
        outcomes: of the blocks before.
        totals: outcomes in the block, shape (2, ...).
        events: of which events, shape (2, ...).
        margin: of the null.

    Returns:
        Shape (len(ODDS_RATIOS), ...).
    """
    first = outcomes.rates[0]
    highest = np.minimum(first + margin, 1 - _TINY)
    bets = []
    for ratio in ODDS_RATIOS:
        second = np.minimum(ratio * highest / (1 + (ratio - 1) * highest), 1 - _TINY)
        null = project_to_margin(first, second, totals, margin)
        bet = _log_ratio(totals[0], events[0], first, null)
        bet = bet + _log_ratio(totals[1], events[1], second, null + margin)
        # An alternative within the null is its own nearest point.
        bets.append(np.where(second - first <= margin, 0.0, bet))
    return np.array(bets)


def compute_noninferior_bets(outcomes: Outcomes, totals: Array, events: Array, margin: float) -> Array:
    """Log e-values of a block against "the second rate is higher by `margin` or more".

    Bets on two alternatives: both rates are the pooled one, or each is what its own sample says.

    Returns:
        Shape (2, ...).
    """
    pooled, rates = outcomes.pooled_rate, outcomes.rates
    bets = []
    for first, second in ((pooled, pooled), (rates[0], rates[1])):
        null = project_to_margin(first, second, totals, margin)
        bet = _log_ratio(totals[0], events[0], first, null)
        bet = bet + _log_ratio(totals[1], events[1], second, null + margin)
        # An alternative within the null is its own nearest point.
        bets.append(np.where(second - first >= margin, 0.0, bet))
    return np.array(bets)


def project_to_margin(first: Array, second: Array, totals: Array, margin: float) -> Array:
    """The rate a for which (a, a + margin) is nearest to (first, second) in the divergence weighted by `totals`."""
    if not margin:
        mean = (totals[0] * first + totals[1] * second) / np.maximum(totals.sum(0), _TINY)
        return np.asarray(np.clip(mean, _TINY, 1 - _TINY))
    low = np.clip(np.minimum(first, second - margin), _TINY, 1 - margin - _TINY)
    high = np.clip(np.maximum(first, second - margin), low, 1 - margin - _TINY)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        other = middle + margin
        slope = totals[0] * (middle - first) / (middle * (1 - middle))
        slope = slope + totals[1] * (other - second) / (other * (1 - other))
        is_above = slope > 0
        low, high = np.where(is_above, low, middle), np.where(is_above, middle, high)
    return np.asarray(0.5 * (low + high))


def compute_growth(rates: Array, share: float, margin: float) -> float:
    """Expected log e-value against "higher by `margin` or more", for one outcome of the second sample.

    Args:
        rates: of both samples, shape (2,).
        share: the second sample's part of all outcomes.
        margin: of the null.
    """
    totals = np.array([(1 - share) / share, 1.0])
    if rates[1] - rates[0] >= margin:
        return 0.0
    null = project_to_margin(rates[0], rates[1], totals, margin)
    return float(totals[0] * _divergence(rates[0], null) + _divergence(rates[1], null + margin))


def log_mean(log_values: Array, axis: int = 0) -> Array:
    """The log of the mean of values whose logs are given."""
    highest = log_values.max(axis, keepdims=True)
    return np.asarray(np.log(np.exp(log_values - highest).mean(axis)) + highest.squeeze(axis))


def compute_rate_interval(events: float, total: float, alpha: float) -> tuple[float, float]:
    """The confidence sequence of a rate: holds the rate at all times together with a probability of 1 - alpha.

    The beta-binomial mixture, with a uniform prior, of Howard, Ramdas, McAuliffe, Sekhon, Time-uniform, nonparametric,
    nonasymptotic confidence sequences, Annals of Statistics 2021, doi:10.1214/20-AOS1991.
    """
    if not total:
        return 0.0, 1.0
    log_marginal = math.lgamma(events + 1) + math.lgamma(total - events + 1) - math.lgamma(total + 2)
    threshold = log_marginal + math.log(alpha)
    estimate = events / total

    def is_inside(rate: float) -> bool:
        return _log_likelihood(events, total, rate) >= threshold

    lower = _bisect(is_inside, 0.0, estimate) if events else 0.0
    upper = _bisect(is_inside, 1.0, estimate) if events < total else 1.0
    return lower, upper


def compute_quantile_interval(counts: Sequence[int], q: float, alpha: float) -> tuple[int, int]:
    """The confidence sequence of a quantile of what a histogram counts, as the indices of its buckets.

    Howard, Ramdas, Sequential estimation of quantiles with applications to A/B testing and best-arm identification,
    Bernoulli 2022, doi:10.3150/21-BEJ1388: whether a value is at most the quantile is a Bernoulli variable of a known
    rate, so a bucket is out where the count up to it tells that rate to be another; here by the beta-binomial mixture.
    """
    below = np.cumsum(np.asarray(counts, dtype=np.float64)).tolist()
    indices = range(len(counts))
    # Both grow with the count, and so with the index.
    lower = bisect_left(indices, q, key=lambda index: compute_rate_interval(below[index], below[-1], alpha)[1])
    upper = bisect_left(indices, q, key=lambda index: compute_rate_interval(below[index], below[-1], alpha)[0])
    return min(lower, indices[-1]), min(upper, indices[-1])


def compute_rate_bets(totals: Array, events: Array, rate: float) -> tuple[Array, Array]:
    """Log e-values of totals so far against "the rate is at least `rate`" and "at most `rate`".

    The likelihood ratio of each alternative to `rate` is an e-process for every rate on the other side; their mean is
    too.
    """
    shares = np.array([0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
    below = [_log_ratio(totals, events, np.asarray(rate * (1 - share)), np.asarray(rate)) for share in shares]
    above = [_log_ratio(totals, events, np.asarray(rate + (1 - rate) * share), np.asarray(rate)) for share in shares]
    return log_mean(np.array(below)), log_mean(np.array(above))


def _log_ratio(totals: Array, events: Array, alternative: Array, null: Array) -> Array:
    """The log likelihood ratio of two rates, for counts of outcomes and events."""
    ratio = events * np.log(alternative / null) + (totals - events) * np.log((1 - alternative) / (1 - null))
    return np.asarray(ratio)


def _divergence(rate: Any, other: Any) -> float:
    return float(rate * np.log(rate / other) + (1 - rate) * np.log((1 - rate) / (1 - other)))


def _log_likelihood(events: float, total: float, rate: float) -> float:
    if (rate <= 0 and events) or (rate >= 1 and events < total):
        return -math.inf
    inside = events * math.log(rate) if events else 0.0
    return inside + ((total - events) * math.log1p(-rate) if events < total else 0.0)


def _bisect(is_inside: Callable[[float], bool], outside: float, inside: float) -> float:
    for _ in range(60):
        middle = 0.5 * (outside + inside)
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
    return outside
