"""Capacity: refuses replicas that no node can hold, and says what others wait for while the nodes are full.

Deploy walk: deploy.py -> [capacity.py] -> serve_api.py
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import httpx

from cluster.rollout.serve_api import Applications, NodeUsage, OnStatus, ServeApi
from deployments.specs.model_deployment import Scale
from training.errors import UserError

# A replica that is about to be placed waits for less.
CHECK_INTERVAL_S = 2.0


def reject_oversized(name: str, scale: Scale, nodes: list[dict[str, float]]) -> None:
    """Refuse a scale that the nodes cannot hold, however little else runs on them.

    Args:
        name: of the model or pipeline.
        scale: what it asks for.
        nodes: total resources of each node of a cluster that does not grow.

    Raises:
        UserError: no node can hold a replica, or all nodes together too few.
    """
    room = sum(_count_replicas(scale, node) for node in nodes)
    # One that may sleep must have room to wake.
    if room >= max(1, scale.min_replicas):
        return
    sizes = ", ".join(format_resources(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
    need = format_resources(scale.cpus, scale.gpus, hide_zero=True)
    if room:
        raise UserError(
            f"{name}: at least {scale.min_replicas} replicas of {need} do not fit the cluster, which holds {room} "
            f"({sizes}); take fewer with --min-replicas, or add a machine with `shoal join`"
        )
    remedy = "--gpus 0 serves on CPUs" if _count_replicas(scale.model_copy(update={"gpus": 0}), *nodes[:1]) else ""
    remedy = remedy or "ask for less with --cpus, or start the cluster with more (SHOAL_CPUS)"
    raise UserError(f"{name}: a replica needs {need}, and no node has so much ({sizes}); {remedy}")


def format_resources(cpus: float, gpus: float, *, hide_zero: bool = False) -> str:
    """Resources as messages show them: `2 CPU, 1 GPU`."""
    amounts = {"CPU": cpus, "GPU": gpus}
    return ", ".join(f"{amount:g} {unit}" for unit, amount in amounts.items() if amount or not hide_zero)


class CapacityWatch:
    """Says, while a deployment is waited for, that the nodes are too full for it.

    Args:
        serve: of the cluster.
        scales: by name, of what is deployed.
        on_status: told, in place of Serve's status while a replica waits for room.
    """

    def __init__(self, serve: ServeApi, scales: Mapping[str, Scale], on_status: OnStatus) -> None:
        self._serve, self._scales, self._on_status = serve, scales, on_status
        self._message = ""
        self._checked_s = time.monotonic()

    def report(self, status: str) -> None:
        """Pass a status on."""
        self._on_status(self._message or status)

    def observe(self, applications: Applications) -> None:
        """Compare what the replicas need with what the nodes have, every few seconds."""
        if time.monotonic() - self._checked_s < CHECK_INTERVAL_S:
            return
        self._checked_s = time.monotonic()
        try:
            usage, demands = self._serve.fetch_usage()
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return  # the message is a help only
        waiting = (name for name, scale in self._scales.items() if _is_demanded(scale, demands))
        name = next(waiting, None)
        self._message = describe_wait(name, self._scales[name], usage, applications) if name else ""


def describe_wait(name: str, scale: Scale, usage: list[NodeUsage], applications: Applications) -> str:
    """Say what a replica waits for, who has it, and the remedy."""
    free = "; ".join(f"{_format_free(node)} free" for node in usage)
    # Not how many: Serve reports what the next replica of each needs, which a deployment changes.
    holders = ", ".join(other for other, application in applications.items() if _holds_cpus(application))
    return (
        f"waiting for room: a replica of {name} needs {format_resources(scale.cpus, scale.gpus, hide_zero=True)}; "
        f"{free}{f' (held by {holders})' if holders else ''}; `shoal undeploy` something, ask for less with --cpus, "
        "or start the cluster with more (SHOAL_CPUS)"
    )


def _count_replicas(scale: Scale, *nodes: dict[str, float]) -> int:
    """How many replicas empty nodes hold; as many as it likes where a replica needs nothing."""
    needs = {unit: amount for unit, amount in (("CPU", scale.cpus), ("GPU", scale.gpus)) if amount}
    if not needs:
        return max(1, scale.min_replicas)
    # Ray counts in ten-thousandths: 0.1 + 0.2 fits into 0.3.
    return sum(min(math.floor(node.get(unit, 0) / amount + 1e-4) for unit, amount in needs.items()) for node in nodes)


def _is_demanded(scale: Scale, demands: list[dict[str, float]]) -> bool:
    """Whether something that needs what a replica does has not been placed."""
    return any(
        math.isclose(demand.get("CPU", 0), scale.cpus) and math.isclose(demand.get("GPU", 0), scale.gpus)
        for demand in demands
    )


def _format_free(node: NodeUsage) -> str:
    units = {unit: node[unit] for unit in ("CPU", "GPU") if unit in node}
    return ", ".join(f"{total - used:.4g} of {total:g} {unit}" for unit, (used, total) in units.items())


def _holds_cpus(application: Mapping[str, Any]) -> bool:
    """Whether a replica of an application is placed that takes CPUs."""
    deployments = application.get("deployments", {}).values()
    return any(
        deployment.get("required_resources", {}).get("CPU") and any(map(_is_placed, deployment.get("replicas", [])))
        for deployment in deployments
    )


def _is_placed(replica: Mapping[str, Any]) -> bool:
    return bool(replica.get("node_id"))
