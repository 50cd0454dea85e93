"""Capacity: what the cluster has by Ray's word, and who holds it besides replicas, which meter themselves.

Request walk: collector.py -> [capacity.py] -> deployments.state.usage_tables
Ray is asked each second. A training run holds a placement group, whatever its workers do; what else is held (replicas
that start, the edge, the control application, users' own actors) is `other`.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray
from ray.util import placement_group_table

from deployments.access.usage.outbox import OutboxSource
from deployments.state.usage_tables import CLUSTER, OTHER, TRAINING, split_hours

INTERVAL_S = 1.0
# Longer gaps, as those of a stopped machine, are nobody's.
MAX_GAP_S = 60.0

Held = dict[tuple[str, str], tuple[float, float]]
"""Cores and GPUs by kind and name."""


class CapacityMeter:
    """Adds up core-milliseconds between its measurements."""

    interval_s = INTERVAL_S

    def __init__(self) -> None:
        self._measured_s = time.time()
        self._sums: Counter[tuple[int, str, str, str]] = Counter()

    def measure(self, replicas: Iterable[OutboxSource]) -> None:
        """Ask Ray who holds what, and add the time since the last measurement.

        Args:
            replicas: that meter themselves.
        """
        held, now_s = measure_held(replicas), time.time()
        start_s, self._measured_s = self._measured_s, now_s
        if not 0 < now_s - start_s < MAX_GAP_S:
            return
        for hour_s, seconds in split_hours(start_s, now_s):
            for (kind, name), (cpus, gpus) in held.items():
                self._sums[hour_s, kind, name, "cpu_ms"] += round(seconds * cpus * 1000)
                self._sums[hour_s, kind, name, "gpu_ms"] += round(seconds * gpus * 1000)

    def take(self) -> list[dict[str, Any]]:
        """Take the sums, as rows of the store."""
        sums, self._sums = self._sums, Counter()
        names = {key[:3] for key in sums}
        return [
            {
                "hour_s": hour_s,
                "kind": kind,
                "name": name,
                "cpu_ms": sums[hour_s, kind, name, "cpu_ms"],
                "used_cpu_ms": 0,
                "gpu_ms": sums[hour_s, kind, name, "gpu_ms"],
            }
            for hour_s, kind, name in names
        ]

    def put_back(self, rows: list[dict[str, Any]]) -> None:
        """Put rows back that could not be written."""
        for row in rows:
            for counter in ("cpu_ms", "gpu_ms"):
                self._sums[row["hour_s"], row["kind"], row["name"], counter] += row[counter]


def measure_held(replicas: Iterable[OutboxSource]) -> Held:
    """Ask Ray what the cluster has, and who holds it; what is left is free."""
    total, free = ray.cluster_resources(), ray.available_resources()
    held: Held = {(CLUSTER, ""): (total.get("CPU", 0.0), total.get("GPU", 0.0))}
    used_cpus = total.get("CPU", 0.0) - free.get("CPU", 0.0)
    used_gpus = total.get("GPU", 0.0) - free.get("GPU", 0.0)
    cpus, gpus = _sum_training()
    if cpus or gpus:
        held[TRAINING, ""] = cpus, gpus
    for source in replicas:
        cpus, gpus = cpus + source.cpus, gpus + source.gpus
    held[OTHER, ""] = max(0.0, used_cpus - cpus), max(0.0, used_gpus - gpus)
    return held


def _sum_training() -> tuple[float, float]:
    cpus = gpus = 0.0
    for group in placement_group_table().values():
        if group["state"] == "CREATED":
            for bundle in group["bundles"].values():
                cpus, gpus = cpus + bundle.get("CPU", 0.0), gpus + bundle.get("GPU", 0.0)
    return cpus, gpus
