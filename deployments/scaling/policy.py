"""Policy: how many replicas Serve runs, by the requests that replicas report to be inside them.

Serve does not see the requests that come from the edge, so its own policy would count none.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

ONGOING, TARGET = "ongoing_requests", "target_ongoing_requests"
Load = dict[str, float]
"""What a replica reports."""


def report_load(ongoing: int, target: float | None = None) -> Load:
    """What a replica's `record_autoscaling_stats` returns.

    Args:
        ongoing: requests inside it, from the edge and from handles.
        target: how many it should have by its own profile, where the deployment has a goal for its latency.
    """
    return {ONGOING: float(ongoing)} | ({} if target is None else {TARGET: target})


def scale_by_ongoing_requests(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy: as many replicas as bring the ongoing requests of each to their target.

    Serve applies the bounds and its delays to what this returns.
    """
    by_replica = (context.aggregated_metrics or {}).get(ONGOING, {})
    if not by_replica or context.config is None:
        return context.target_num_replicas, {}
    targets = (context.aggregated_metrics or {}).get(TARGET, {})
    target = sum(targets.values()) / len(targets) if targets else context.config.target_ongoing_requests
    return math.ceil(sum(by_replica.values()) / target), {}
