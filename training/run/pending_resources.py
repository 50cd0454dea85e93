"""Pending resources: tells a run that waits for CPUs or GPUs from one whose workers are slow to start.

Train walk: ray_train.py -> [pending_resources.py]
"""

import time
from typing import Any

import ray
from ray.util.state import list_placement_groups

# A run that waits for resources reports it this often.
REPORT_INTERVAL_S = 15.0
LIST_TIMEOUT_S = 5


class PlacementWatch:
    """Follows a run's messages, and checks the cluster's resources when they stop.

    Args:
        min_workers: that the run needs to start.
        use_gpu: whether each needs a GPU; otherwise each needs a CPU.
    """

    def __init__(self, *, min_workers: int, use_gpu: bool) -> None:
        self._required, self._resource = min_workers, "GPU" if use_gpu else "CPU"
        self._placed = False
        self._last_message_s = time.monotonic()

    def observe(self, message: dict[str, Any]) -> None:
        """Take one message: workers are placed from their start until one fails or its node is preempted."""
        self._last_message_s = time.monotonic()
        if message["kind"] in ("loading", "started", "worker_failed", "preemption_notice"):
            self._placed = message["kind"] in ("loading", "started")

    def waiting_message(self) -> dict[str, Any] | None:
        """A `waiting_for_resources` message if workers have not started for a while for lack of resources."""
        if self._placed or time.monotonic() - self._last_message_s < REPORT_INTERVAL_S:
            return None
        self._last_message_s = time.monotonic()
        available = ray.available_resources().get(self._resource, 0)
        if available >= self._required or _has_reservation():
            return None
        message = {"kind": "waiting_for_resources", "rank": 0, "at_s": time.time()}
        return message | {"resource": self._resource, "required": self._required, "available": available}


def _has_reservation() -> bool:
    """Whether the cluster has reserved resources for this driver's workers."""
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
