"""Evidence: what a comparison holds, for people: counts, intervals, a verdict on each metric, what is missing to one.

Rollout walk: progress.py -> [evidence.py] -> comparison.py
"""

import math
from typing import Any

from deployments.rollout.canary import MetricEvidence, SampleEvidence
from deployments.rollout.comparison import AGREEMENT, ERRORS, MIN_ANSWERS, QUANTILES, REFUSALS, Comparison
from deployments.rollout.sequential import compute_growth, compute_quantile_interval, compute_rate_interval
from deployments.scaling.report import BOUNDS_S, MAX_LATENCY_S, compute_quantile

INTERVAL_ALPHA = 0.05
_OUTCOMES = {ERRORS: "failed", REFUSALS: "were refused"}
_MAX_LOG = 50.0
# Less evidence than this for each request tells that there is none to come.
_MIN_GROWTH = 1e-5


def describe_evidence(comparison: Comparison) -> tuple[MetricEvidence, ...]:
    """Describe each metric of one rollout's comparison."""
    evidence = [_describe_metric(comparison, name) for name in comparison.metrics]
    pairs, agreements = int(comparison.pairs), int(comparison.agreements)
    if pairs or AGREEMENT in comparison.deciding_metrics:
        low, high = compute_rate_interval(agreements, pairs, INTERVAL_ALPHA)
        rate = agreements / pairs if pairs else None
        canary = SampleEvidence(total=pairs, events=agreements, value=rate, low=low, high=high)
        evidence.append(MetricEvidence(metric=AGREEMENT, stable=None, canary=canary, **_judge(comparison, AGREEMENT)))
    return tuple(evidence)


def describe_verdict(evidence: tuple[MetricEvidence, ...], verdict: str) -> str:
    """Say in a line why a verdict is what it is; of an undecided one, what is missing."""
    if verdict == "undecided":
        missing = [f"{each.metric}: {each.missing}" for each in evidence if each.missing]
        return "; ".join(missing) or "the step is not old enough"
    deciding = [each for each in evidence if each.verdict == verdict]
    return "; ".join(_describe_samples(each) for each in deciding)


def _describe_samples(evidence: MetricEvidence) -> str:
    canary, stable = evidence.canary, evidence.stable
    if evidence.metric == AGREEMENT or stable is None:
        return f"agreement: {canary.events} of {canary.total} answers agree"
    if evidence.metric in _OUTCOMES:
        return (
            f"{evidence.metric}: {canary.events} of {canary.total} requests {_OUTCOMES[evidence.metric]}, of the old "
            f"version {stable.events} of {stable.total}"
        )
    return (
        f"{evidence.metric}: {_format_s(canary.value)} of {canary.total} answers, of the old version "
        f"{_format_s(stable.value)}"
    )


def _format_s(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 1000:.3g} ms"


def _describe_metric(comparison: Comparison, name: str) -> MetricEvidence:
    samples = []
    metric = comparison.metrics[name]
    for side in (0, 1):
        total, events = int(metric.step_totals[side]), int(metric.step_events[side])
        if name in _OUTCOMES:
            low, high = compute_rate_interval(events, total, INTERVAL_ALPHA)
            value = events / total if total else None
        else:
            value, low, high = _describe_quantile(comparison.step_latencies[side], QUANTILES[name])
        samples.append(SampleEvidence(total=total, events=events, value=value, low=low, high=high))
    return MetricEvidence(metric=name, stable=samples[0], canary=samples[1], **_judge(comparison, name))


def _describe_quantile(counts: Any, q: float) -> tuple[float | None, float, float]:
    """A quantile, and the bounds of its confidence sequence, in seconds."""
    whole = [int(count) for count in counts]
    if not sum(whole):
        return None, 0.0, MAX_LATENCY_S
    lower, upper = compute_quantile_interval(whole, q, INTERVAL_ALPHA)
    bounds_s = (0.0, *BOUNDS_S, MAX_LATENCY_S)
    return compute_quantile(whole, q), bounds_s[lower], bounds_s[upper + 1]


def _judge(comparison: Comparison, name: str) -> dict[str, Any]:
    if name not in comparison.deciding_metrics:
        return {}
    verdict, missing = "undecided", ""
    if comparison.is_worse(name):
        verdict = "worse"
    elif comparison.is_noninferior(name):
        verdict = "better-or-equal"
    else:
        missing = _describe_missing(comparison, name)
    few = comparison.criteria.min_requests - int(comparison.requests)
    if verdict == "better-or-equal" and name == ERRORS and few > 0:
        verdict, missing = "undecided", f"needs {few} more requests to the new version, the minimum of a step"
    return {
        "worse_evidence": _format_evidence(comparison.get_worse_evidence(name)),
        "worse_at": _format_evidence(comparison.worse_threshold),
        "noninferior_evidence": _format_evidence(comparison.get_noninferior_evidence(name)),
        "noninferior_at": _format_evidence(comparison.noninferior_threshold),
        "verdict": verdict,
        "missing": missing,
    }


def _format_evidence(log_evidence: Any) -> float:
    return float(f"{math.exp(min(_MAX_LOG, float(log_evidence))):.4g}")


def _describe_missing(comparison: Comparison, name: str) -> str:
    """Say what a metric lacks to be shown not to be worse."""
    gap = comparison.noninferior_threshold - float(comparison.get_noninferior_evidence(name))
    if name == AGREEMENT:
        return "needs more copies whose answers agree"
    metric = comparison.metrics[name]
    stable_total, canary_total = (float(total) for total in metric.step_totals)
    if name in QUANTILES and float(comparison.latencies.sum()) < MIN_ANSWERS:
        return f"needs {MIN_ANSWERS} answers of the old version first"
    if not canary_total:
        return "no request has come to the new version yet"
    if not stable_total:
        return "no request has come to the old version yet"
    share = canary_total / (stable_total + canary_total)
    growth = compute_growth(metric.outcomes.rates, share, metric.margin)
    if growth < _MIN_GROWTH:
        return "the difference is about as large as the margin; more requests will tell"
    return f"needs about {max(1, math.ceil(gap / growth)):,} more requests to the new version"
