"""A replica's way in: its HTTP server, and its membership, in the order in which no request is lost.

Deploy walk: deployments.models.replica -> [replica_server.py] -> membership.py
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from ray import serve

from deployments.edge.membership import Membership, fetch_edge_secret, get_listen_host
from deployments.edge.node_tls import build_server_context
from deployments.edge.state import Member, Route, ShadowTarget
from deployments.scaling.report import PairReport, PassReport, ReplicaReport, RequestStatistics
from deployments.server.asgi import App
from deployments.server.http_server import HttpServer
from deployments.server.metrics import RequestMetrics
from deployments.settings import ServingSettings


class Shadow(Protocol):
    """What copies a replica's requests."""

    def follow(self, target: ShadowTarget | None) -> None:
        """Take where to; None for nowhere."""

    def report(self) -> PairReport:
        """What came of the copies."""


class ReplicaServer:
    """Takes requests from the edges: listens, then joins; leaves, finishes what is inside, then closes."""

    def __init__(
        self, server: HttpServer, metrics: RequestMetrics, membership: Membership, drain_timeout_s: float
    ) -> None:
        self._server, self._membership, self._drain_timeout_s = server, membership, drain_timeout_s
        self._metrics_task = asyncio.get_running_loop().create_task(metrics.run(lambda: server.ongoing))

    @classmethod
    async def start(
        cls,
        build_app: Callable[[str], App],
        host: str,
        route: Route,
        *,
        version: int = 0,
        variant: str = "",
        report_passes: Callable[[], PassReport] = PassReport,
        count_calls: Callable[[], int] = int,
        shadow: Shadow | None = None,
    ) -> "ReplicaServer":
        """Listen and join; returns when the edges send requests.

        Args:
            build_app: from the cluster's secret to the application.
            host: that the cluster listens on.
            route: where requests come from.
            version: of what is served.
            variant: of what is served.
            report_passes: what the replica's batcher has done and has to do.
            count_calls: how many requests by handles are inside.
            shadow: takes copies of requests where the directory says so.
        """
        metrics, statistics = RequestMetrics(), RequestStatistics()

        def record(method: str, status: int, duration_s: float) -> None:
            metrics.record(method, status, duration_s)
            statistics.record(status, duration_s)

        def report() -> ReplicaReport:
            return ReplicaReport(
                uptime_s=time.monotonic() - started_s,
                ongoing=server.ongoing + count_calls(),
                responses=dict(statistics.responses),
                latencies=tuple(statistics.latencies.counts),
                passes=report_passes(),
                copies=shadow.report() if shadow else PairReport(),
            )

        server = HttpServer(build_app(await fetch_edge_secret()), record)
        started_s = time.monotonic()
        address = get_listen_host(host)
        port = await server.start(address, tls=build_server_context(ServingSettings().edge))
        member_id = serve.get_replica_context().replica_id.unique_id
        member = Member(member_id, route, f"{address}:{port}", version, variant)
        membership = Membership(member, report, shadow.follow if shadow else None)
        await membership.join()
        return cls(server, metrics, membership, route.response_timeout_s)

    @property
    def ongoing(self) -> int:
        """Requests that are inside."""
        return self._server.ongoing

    async def stop(self) -> None:
        """Leave, finish what is inside, and close."""
        await self._membership.leave()
        await self._server.drain(self._drain_timeout_s)
        self._metrics_task.cancel()
