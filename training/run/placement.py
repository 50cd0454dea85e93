"""Placement: tells a run that waits for room in the cluster from one whose workers are merely slow to start.

Train walk: training.run.driver -> [placement.py], while no worker has anything to say
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.train.v2.api.config import ScalingConfig
from ray.util.state import list_placement_groups

# A run that waits says so this often.
REPORT_INTERVAL_S = 15.0
LIST_TIMEOUT_S = 5


class PlacementWatch:
    """Follows a run's messages, and now and then looks at the cluster."""

    def __init__(self, scaling: ScalingConfig) -> None:
        self._scaling = scaling
        self._placed = False
        self._heard_s = time.monotonic()

    def observe(self, message: Mapping[str, Any]) -> None:
        """Take one message; workers are in their places from their start until one dies, or its machine is to go."""
        self._heard_s = time.monotonic()
        if message["kind"] in ("started", "died", "notice"):
            self._placed = message["kind"] == "started"

    def waiting_message(self) -> dict[str, Any] | None:
        """A message, if workers have not started for a while because there is no room for them."""
        if self._placed or time.monotonic() - self._heard_s < REPORT_INTERVAL_S:
            return None
        self._heard_s = time.monotonic()
        what, wanted = "GPU" if self._scaling.use_gpu else "CPU", self._scaling.min_workers
        free = ray.available_resources().get(what, 0)
        if free >= wanted or _has_reservation():
            return None
        return {"kind": "waiting", "rank": 0, "at_s": time.time(), "what": what, "wanted": wanted, "free": free}


def _has_reservation() -> bool:
    """Whether the cluster has put resources aside for this driver's workers."""
    context = ray.get_runtime_context()
    try:
        groups = list_placement_groups(
            address=context.gcs_address,
            filters=[("creator_job_id", "=", context.get_job_id())],
            timeout=LIST_TIMEOUT_S,
            raise_on_missing_output=False,
        )
    except Exception:  # a dashboard that is busy or gone is no reason to end a run
        return True
    return any(group.state == "CREATED" for group in groups)
