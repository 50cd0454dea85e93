"""Policy: how many replicas Serve runs, by the load that they report themselves.

It runs in Ray Serve's controller, several times a second; load.py says what replicas report.
Serve does not see the requests that come from the edge, so its own policy would count none. At zero replicas nobody
reports, and Serve itself starts the first one, when a call waits at a handle: the control application's, for whoever
finds no replica at the edge.

The rule is that of Kubernetes' HorizontalPodAutoscaler: a tolerance around the target, and over a window of time the
lowest recommendation for more replicas, the highest for fewer.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
"""

import math
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.scaling.load import (
    BUSY_SHARE,
    CALL_RATE,
    CAPACITY,
    ONGOING,
    P99_S,
    QUEUED_ROWS,
    ROW_RATE,
    TARGET_ONGOING,
)

# A demand within this share of what the replicas are for changes nothing.
TOLERANCE = 0.1
# Full passes that may wait in one replica; a row that comes then waits for as many.
TARGET_QUEUED_PASSES = 4.0
# Replicas that are less busy do not miss their goal for want of another.
MIN_BUSY_SHARE = 0.3
# Replicas are not removed where the rest would compute for a larger share of their time.
MAX_BUSY_SHARE = 0.8

Window = tuple[tuple[float, int], ...]
"""Recommendations with the times at which they were made; of those that a later one outdoes, only the later."""

Metrics = Mapping[str, Mapping[Any, float]]
"""A value of each replica, by its name in load.py."""


class ReplicaPolicy:
    """Serve's policy of a model, pipeline or the gRPC gateways; one instance for each, in Serve's controller."""

    def __init__(
        self,
        upscale_delay_s: float,
        downscale_delay_s: float,
        downscale_to_zero_delay_s: float,
        pass_rows: int,
        slo_p99_s: float | None = None,
        shares_cores: bool = False,
    ) -> None:
        """Make a policy; the arguments are the `policy_kwargs` of deployments.applications.

        Args:
            upscale_delay_s: how long more replicas must have been needed.
            downscale_delay_s: how long fewer must have been enough.
            downscale_to_zero_delay_s: how long nobody must have called.
            pass_rows: rows of a full forward pass.
            slo_p99_s: goal for the 99th percentile of the latency; replicas then report what they can do within it.
            shares_cores: whether a replica reserves less than a core. One that starts takes a whole one for seconds, so
                that no more start at a time than run: they would take it from those that answer.
        """
        self._upscale_delay_s, self._downscale_delay_s = upscale_delay_s, downscale_delay_s
        self._to_zero_delay_s = downscale_to_zero_delay_s
        self._pass_rows, self._slo_p99_s, self._shares_cores = pass_rows, slo_p99_s, shares_cores

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas, and what the next call needs to know; Serve applies the bounds."""
        metrics, target, now_s = context.aggregated_metrics or {}, context.target_num_replicas, context.current_time
        if not metrics.get(ONGOING) or context.config is None or now_s is None:
            # None runs, or none has reported yet: what was recommended before it did does not count.
            return target, {}
        fewest, most = self._recommend(metrics, context.config.target_ongoing_requests)
        state = context.policy_state
        low: Window = _add(state.get("low") or ((now_s, target),), now_s, fewest, self._upscale_delay_s, min)
        high: Window = _add(
            state.get("high") or ((now_s, target),),
            now_s,
            most,
            max(self._downscale_delay_s, self._to_zero_delay_s),
            max,
        )
        wanted = self._decide(target, low, high, now_s)
        if self._shares_cores:
            wanted = min(wanted, max(target, 2 * len(metrics[ONGOING])))
        return wanted, {"low": low, "high": high}

    def _recommend(self, metrics: Metrics, target_ongoing_requests: float) -> tuple[int, int]:
        """Return the fewest and the most replicas that fit the load; what runs between the two stays."""
        ongoing = sum(metrics[ONGOING].values())
        demand = max(self._list_demands(metrics, target_ongoing_requests))
        # One request is in one replica: more replicas than requests would help nobody.
        fewest = math.ceil(min(demand, max(ongoing, 1.0)) / (1 + TOLERANCE))
        most = math.ceil(demand / (1 - TOLERANCE))
        if self._slo_p99_s is None:
            # Where replicas know what they can do, this is of no use: passes that are not full keep them as busy.
            busy = sum(metrics.get(BUSY_SHARE, {}).values()) / MAX_BUSY_SHARE
            most = max(most, math.ceil(min(busy, ongoing)))
        if any(metrics.get(CALL_RATE, {}).values()):
            most = max(most, 1)
        return fewest, max(fewest, most)

    def _list_demands(self, metrics: Metrics, target_ongoing_requests: float) -> list[float]:
        """List how many replicas each measure asks for, as if they were divisible."""
        queued_rows = sum(metrics.get(QUEUED_ROWS, {}).values())
        if self._slo_p99_s is not None and metrics.get(CAPACITY):
            return [self._compute_goal_demand(metrics, self._slo_p99_s)]
        return [
            sum(metrics[ONGOING].values()) / target_ongoing_requests,
            queued_rows / (self._pass_rows * TARGET_QUEUED_PASSES),
        ]

    def _compute_goal_demand(self, metrics: Metrics, slo_p99_s: float) -> float:
        """Compute how many replicas the goal takes: by their profiles, and one more where they are measured to miss it.

        Rows per second are known before there is a queue, and say nothing once there is one; what is inside says it
        then (Little's law). Planned ahead by profile, corrected by what is measured: InferLine's two loops (SoCC 2020).
        """
        capacity = _mean(metrics[CAPACITY]) or math.inf
        demand = max(
            sum(metrics.get(ROW_RATE, {}).values()) / capacity,
            sum(metrics[ONGOING].values()) / max(_mean(metrics[TARGET_ONGOING]), 1.0),
        )
        p99_s = max(metrics.get(P99_S, {}).values(), default=0.0)
        is_busy = _mean(metrics.get(BUSY_SHARE, {})) > MIN_BUSY_SHARE
        return demand + 1 if p99_s > slo_p99_s and is_busy else demand

    def _decide(self, target: int, low: Window, high: Window, now_s: float) -> int:
        fewest, most = low[0][1], _first_since(high, now_s - self._downscale_delay_s)
        if fewest > target:
            return fewest
        if most < target and (most > 0 or target > 1):
            return max(1, most)
        return 0 if _first_since(high, now_s - self._to_zero_delay_s) == 0 else target


def _mean(values: Mapping[Any, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0


def _add(window: Window, now_s: float, value: int, length_s: float, better: Any) -> Window:
    """Add a recommendation; the first of a window is then the best of the last `length_s`."""
    kept = [entry for entry in window if entry[0] >= now_s - length_s]
    while kept and better(kept[-1][1], value) == value:
        kept.pop()
    return (*kept, (now_s, value))


def _first_since(window: Window, since_s: float) -> int:
    return next(value for at_s, value in window if at_s >= since_s)
