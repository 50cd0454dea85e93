"""A replica's way in: its HTTP server, and its membership, in the order in which no request is lost.

Deploy walk: deployments.models.replica -> [replica_server.py] -> membership.py
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray import serve

from deployments.edge.membership import Membership, fetch_edge_secret, get_listen_host
from deployments.edge.node_tls import build_server_context
from deployments.edge.state import EDGE_DIR_VARIABLE, LocalSocket, Member, Route, identify_machine
from deployments.observability.observation import Observation
from deployments.scaling.report import CallReport, PassReport, ReplicaReport
from deployments.server.http_server import HttpServer
from deployments.server.request import App
from deployments.settings import ServingSettings

# What a Unix socket's address holds: https://man7.org/linux/man-pages/man7/unix.7.html
MAX_SOCKET_PATH = 107


class ReplicaServer:
    """Takes requests from the edges: listens, then joins; leaves, finishes what is inside, then closes."""

    def __init__(
        self, server: HttpServer, membership: Membership, drain_timeout_s: float, local_socket: LocalSocket | None
    ) -> None:
        self._server, self._membership, self._drain_timeout_s = server, membership, drain_timeout_s
        self._local_socket = local_socket

    @classmethod
    async def start(
        cls,
        build_app: Callable[[str, Observation], App],
        host: str,
        route: Route,
        *,
        version: int = 0,
        variant: str = "",
        report_passes: Callable[[], PassReport] = PassReport,
        count_calls: Callable[[], int] = int,
        report_calls: Callable[[], CallReport] = CallReport,
        observation: Observation | None = None,
        constructed_s: float | None = None,
    ) -> "ReplicaServer":
        """Listen and join; returns when the edges send requests.

        Args:
            build_app: from the cluster's secret, and what its layers tell, to the application.
            host: that the cluster listens on.
            route: where requests come from.
            version: of what is served.
            variant: of what is served.
            report_passes: what the replica's batcher has done and has to do.
            count_calls: how many requests by handles are inside.
            report_calls: what they came to.
            observation: of this replica; None for a new one without a tracer.
            constructed_s: when the replica's construction began, by time.monotonic.
        """
        observation = observation or Observation()
        statistics = observation.statistics
        node_id = ray.get_runtime_context().get_node_id()
        constructed_s = constructed_s or time.monotonic()
        cold_start_s = 0.0

        def report() -> ReplicaReport:
            return ReplicaReport(
                uptime_s=time.monotonic() - started_s,
                ongoing=server.ongoing + count_calls(),
                responses=dict(statistics.responses),
                latencies=tuple(statistics.latencies.counts),
                passes=report_passes(),
                latency_s=statistics.latencies.sum_s,
                errors=dict(statistics.errors),
                calls=report_calls(),
                node_id=node_id,
                cold_start_s=cold_start_s,
            )

        server = HttpServer(build_app(await fetch_edge_secret(), observation), statistics.record)
        started_s = time.monotonic()
        address = get_listen_host(host)
        port = await server.start(address, tls=build_server_context(ServingSettings().edge))
        member_id = serve.get_replica_context().replica_id.unique_id
        local_socket = _choose_local_socket(member_id)
        if local_socket:
            await server.start_local(local_socket.path)
        member = Member(member_id, route, f"{address}:{port}", version, variant, local_socket=local_socket)
        membership = Membership(member, report)
        await membership.join()
        cold_start_s = time.monotonic() - constructed_s
        return cls(server, membership, route.response_timeout_s, local_socket)

    @property
    def ongoing(self) -> int:
        """Requests that are inside."""
        return self._server.ongoing

    async def stop(self) -> None:
        """Leave, finish what is inside, and close."""
        await self._membership.leave()
        await self._server.drain(self._drain_timeout_s)
        if self._local_socket:
            Path(self._local_socket.path).unlink(missing_ok=True)


def _choose_local_socket(member_id: str) -> LocalSocket | None:
    """A socket in the folder of this node's edge, where there is one, or None."""
    folder = os.environ.get(EDGE_DIR_VARIABLE)
    if not folder or not identify_machine():
        return None
    sockets = Path(folder, "replicas")
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = sockets / f"{member_id}.sock"
    return LocalSocket(str(path), identify_machine()) if len(os.fsencode(path)) <= MAX_SOCKET_PATH else None
