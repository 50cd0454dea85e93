"""Pending resources: tells a run that waits for CPUs or GPUs from one whose workers are slow to start.

Train walk: ray_train.py -> [pending_resources.py]
"""

import time
from collections import Counter
from typing import Any

import ray
from ray.util.state import list_actors, list_placement_groups

# A run that waits for resources reports it this often.
REPORT_INTERVAL_S = 15.0
LIST_TIMEOUT_S = 5
MAX_ACTORS = 1000
# Of the names that Ray Serve gives to its replicas' actors.
REPLICA_PREFIX = "SERVE_REPLICA::"


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
        message |= {"resource": self._resource, "required": self._required, "available": available}
        return message | {"held": sum_replica_resources(_list_replicas(), self._resource)}


def sum_replica_resources(replicas: list[tuple[str, dict[str, float]]], resource: str) -> dict[str, float]:
    """How much of a resource the replicas of each deployed model or pipeline hold.

    Args:
        replicas: names of Serve's actors, `SERVE_REPLICA::MODEL#DEPLOYMENT#ID`, and what each requires.
        resource: CPU or GPU.
    """
    held: Counter[str] = Counter()
    for name, required in replicas:
        if amount := required.get(resource, 0):
            held[name.removeprefix(REPLICA_PREFIX).partition("#")[0]] += amount  # type: ignore[assignment]
    return dict(held)


def _list_replicas() -> list[tuple[str, dict[str, float]]]:
    """Serve's replicas that are placed."""
    try:
        actors = list_actors(
            address=ray.get_runtime_context().gcs_address,
            filters=[("state", "=", "ALIVE")],
            limit=MAX_ACTORS,
            timeout=LIST_TIMEOUT_S,
            detail=True,
            raise_on_missing_output=False,
        )
    except Exception:  # as below
        return []
    return [(a.name, a.required_resources or {}) for a in actors if a.name and a.name.startswith(REPLICA_PREFIX)]


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
