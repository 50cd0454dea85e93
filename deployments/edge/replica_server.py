"""A replica's way in: its HTTP server, and its membership, in the order in which no request is lost.

Deploy walk: deployments.models.replica -> [replica_server.py] -> membership.py
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ray import serve

from deployments.edge.membership import Membership, fetch_edge_secret, get_listen_host
from deployments.edge.node_tls import build_server_context
from deployments.edge.state import Member, Route
from deployments.scaling.load import Load, LoadMeter
from deployments.scaling.report import PassReport, ReplicaReport, RequestStatistics
from deployments.server.asgi import App
from deployments.server.http_server import HttpServer
from deployments.server.metrics import RequestMetrics
from deployments.settings import ServingSettings


class ReplicaServer:
    """Takes requests from the edges: listens, then joins; leaves, finishes what is inside, then closes."""

    def __init__(
        self,
        server: HttpServer,
        metrics: RequestMetrics,
        meter: LoadMeter,
        membership: Membership,
        drain_timeout_s: float,
    ) -> None:
        self._server, self._membership, self._drain_timeout_s = server, membership, drain_timeout_s
        self._meter = meter
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(metrics.run(lambda: server.ongoing)), loop.create_task(meter.run())]

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
        count_calls: Callable[[], tuple[int, int]] = lambda: (0, 0),
        start_phases: Mapping[str, float] = MappingProxyType({}),
    ) -> "ReplicaServer":
        """Listen and join; returns when the edges send requests.

        Args:
            build_app: from the cluster's secret to the application.
            host: that the cluster listens on.
            route: where requests come from.
            version: of what is served.
            variant: of what is served.
            report_passes: what the replica's batcher has done and has to do.
            count_calls: how many requests by handles are inside, and how many there were.
            start_phases: seconds of each phase of its start; it may grow.
        """
        metrics, statistics = RequestMetrics(), RequestStatistics()

        def record(method: str, status: int, duration_s: float) -> None:
            metrics.record(method, status, duration_s)
            statistics.record(status, duration_s, is_call=method == "POST")

        def report() -> ReplicaReport:
            ongoing_calls, total_calls = count_calls()
            return ReplicaReport(
                uptime_s=time.monotonic() - started_s,
                ongoing=server.ongoing + ongoing_calls,
                responses=dict(statistics.responses),
                latencies=tuple(statistics.latencies.counts),
                passes=report_passes(),
                calls=statistics.calls + total_calls,
                start_phases=dict(start_phases),
            )

        server = HttpServer(build_app(await fetch_edge_secret()), record)
        started_s = time.monotonic()
        address = get_listen_host(host)
        port = await server.start(address, tls=build_server_context(ServingSettings().edge))
        member_id = serve.get_replica_context().replica_id.unique_id
        membership = Membership(Member(member_id, route, f"{address}:{port}", version, variant), report)
        await membership.join()
        return cls(server, metrics, LoadMeter(report), membership, route.response_timeout_s)

    def measure_load(self) -> Load:
        """What the scaling policy gets of this replica."""
        return self._meter.measure()

    async def stop(self) -> None:
        """Leave, finish what is inside, and close."""
        await self._membership.leave()
        await self._server.drain(self._drain_timeout_s)
        for task in self._tasks:
            task.cancel()
