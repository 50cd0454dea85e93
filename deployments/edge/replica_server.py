"""A replica's way in: its HTTP server, and its membership, in the order in which no request is lost.

Deploy walk: deployments.models.replica -> [replica_server.py] -> membership.py
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import ray
from ray import serve

from deployments.edge.membership import Membership, fetch_edge_secret, get_listen_host
from deployments.edge.node_tls import build_server_context
from deployments.edge.splits import Splits
from deployments.edge.state import EDGE_DIR_VARIABLE, Instructions, LocalSocket, Member, Route, identify_machine
from deployments.observability.observation import Observation
from deployments.scaling.load import Load, LoadMeter
from deployments.scaling.report import CallReport, PairReport, PassReport, ReplicaReport
from deployments.server.http_server import HttpServer
from deployments.server.request import App
from deployments.server.served import Served
from deployments.settings import ServingSettings

# What a Unix socket's address holds: https://man7.org/linux/man-pages/man7/unix.7.html
MAX_SOCKET_PATH = 107


class Shadow(Protocol):
    """What copies a replica's requests."""

    def follow(self, instructions: Instructions) -> None:
        """Take where to."""

    def report(self) -> PairReport:
        """What came of the copies."""


class ReplicaServer:
    """Takes requests from the edges: listens, then joins; leaves, finishes what is inside, then closes."""

    def __init__(
        self,
        server: HttpServer,
        meter: LoadMeter,
        membership: Membership,
        drain_timeout_s: float,
        local_socket: LocalSocket | None,
    ) -> None:
        self._server, self._membership, self._drain_timeout_s = server, membership, drain_timeout_s
        self._meter, self._local_socket = meter, local_socket
        self._task = asyncio.get_running_loop().create_task(meter.run())

    @classmethod
    async def start(
        cls,
        build_app: Callable[[str, Observation], App],
        host: str,
        route: Route,
        *,
        served: Served | None = None,
        variant: str = "",
        report_passes: Callable[[], PassReport] = PassReport,
        report_calls: Callable[[], CallReport] = CallReport,
        start_phases: Mapping[str, float] = MappingProxyType({}),
        shadow: Shadow | None = None,
        splits: Splits | None = None,
        observation: Observation | None = None,
    ) -> "ReplicaServer":
        """Listen and join; returns when the edges send requests.

        Args:
            build_app: from the cluster's secret, and what its layers tell, to the application.
            host: that the cluster listens on.
            route: where requests come from.
            served: what every response is of, as its headers say; None where they differ.
            variant: of what is served.
            report_passes: what the replica's batcher has done and has to do.
            report_calls: what came by handles.
            start_phases: seconds of each phase of its start; it may grow.
            shadow: takes copies of requests where the directory says so.
            splits: follows what the directory says of canaries, for calls by handles.
            observation: of this replica; None for a new one without a tracer.
        """
        observation = observation or Observation()
        statistics = observation.statistics
        node_id = ray.get_runtime_context().get_node_id()

        def report() -> ReplicaReport:
            calls = report_calls()
            return ReplicaReport(
                uptime_s=time.monotonic() - started_s,
                ongoing=server.ongoing + calls.ongoing,
                passes=report_passes(),
                calls=statistics.calls + calls.total,
                start_phases=dict(start_phases),
                copies=shadow.report() if shadow else PairReport(),
                handle_calls=calls,
                node_id=node_id,
                **statistics.dump(),
            )

        server = HttpServer(build_app(await fetch_edge_secret(), observation), statistics.record_request, served)
        address, started_s = get_listen_host(host), time.monotonic()
        port = await server.start(address, tls=build_server_context(ServingSettings().edge))
        member_id = serve.get_replica_context().replica_id.unique_id
        local_socket = _choose_local_socket(member_id)
        if local_socket:
            await server.start_local(local_socket.path)
        version = served.version if served else 0
        member = Member(member_id, route, f"{address}:{port}", version, variant, local_socket=local_socket)
        follower = shadow or splits
        membership = Membership(member, report, follower.follow if follower else None)
        await membership.join()
        return cls(server, LoadMeter(report), membership, route.response_timeout_s, local_socket)

    def measure_load(self) -> Load:
        """What the scaling policy gets of this replica."""
        return self._meter.measure()

    async def stop(self) -> None:
        """Leave, finish what is inside, and close."""
        await self._membership.leave()
        await self._server.drain(self._drain_timeout_s)
        self._task.cancel()
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
