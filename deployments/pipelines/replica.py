"""Pipeline replica: a pipeline executor as a Serve deployment, which calls its models through Serve handles.

Deploy walk: deployments.applications -> [replica.py] -> executor.py -> pipeline_plan.py
Each model is an application of its own and scales by itself: a handle sends a call to the least loaded replica.
"""

import asyncio
import time
from typing import Any

from ray import serve

from deployments.access.authorization import Authorization
from deployments.access.limits.ledger_actor import open_accounts
from deployments.access.usage.replica_meter import open_pusher
from deployments.edge.directory import get_directory
from deployments.edge.replica_server import ReplicaServer
from deployments.edge.splits import Splits
from deployments.edge.state import Route
from deployments.models.cold_start import ColdStart
from deployments.observability.observation import Observation
from deployments.observability.tracing import build_tracer
from deployments.pipelines.executor import PipelineExecutor
from deployments.pipelines.routes import PipelineRoutes
from deployments.ray_internals import bind_replica_port
from deployments.scaling.load import Load
from deployments.server.handle_api import HandleApi
from deployments.server.handle_client import HandleClient
from deployments.server.middleware import compose_http
from deployments.server.scheduling import Scheduling
from deployments.server.served import OnServed, Served
from deployments.settings import ServingSettings
from deployments.specs.deployment import PipelineEndpoint

STATUS_INTERVAL_S = 1.0


class NodeReadiness:
    """Whether the models that a pipeline calls run, from Serve's status; fetched at most once per STATUS_INTERVAL_S."""

    def __init__(self, models: tuple[str, ...]) -> None:
        self._models = models
        self._unready: list[str] = []
        self._fetched_s = float("-inf")

    async def list_unready(self) -> list[str]:
        """List the models that do not run."""
        if time.monotonic() - self._fetched_s > STATUS_INTERVAL_S:
            applications = (await asyncio.to_thread(serve.status)).applications
            running = {name for name, each in applications.items() if each.status.value == "RUNNING"}
            self._unready = [name for name in self._models if name not in running]
            self._fetched_s = time.monotonic()
        return self._unready


async def _may_sleep(model: str) -> bool:
    is_sleeper: bool = await get_directory().may_sleep.remote(model)
    return is_sleeper


@serve.deployment(name="replica")
class PipelineReplica(HandleApi):
    """A pipeline executor as a Serve deployment, with an HTTP server in its own process."""

    async def __init__(self, endpoint: dict[str, Any], host: str) -> None:  # type: ignore[misc]
        bind_replica_port(host)
        start = ColdStart()
        specification = PipelineEndpoint.model_validate(endpoint)
        replica = serve.get_replica_context().replica_id.unique_id
        self.tracer = tracer = build_tracer(
            ServingSettings().tracing, specification.name, specification.version, replica
        )
        splits = Splits()
        # A pipeline is one caller of its models.
        client = HandleClient(
            may_sleep=_may_sleep,
            inject_trace=tracer.inject_headers if tracer else None,
            splits=splits,
            caller=specification.name,
            is_node=True,
        )

        async def call_model(
            model: str, body: bytes, request_id: str | None, timeout_s: float, priority: int, on_served: OnServed
        ) -> bytes:
            return await client.predict(model, body, request_id, timeout_s, priority, on_served=on_served)

        self.servable = self._executor = executor = PipelineExecutor(
            specification, call_model, trace_node=tracer.trace_node if tracer else None
        )
        self.accounts = accounts = await open_accounts(replica)
        readiness = NodeReadiness(specification.pipeline.list_models())
        limits = specification.limits
        self._usage = open_pusher(specification.name, specification.version)
        self.usage_sink = self._usage.sink
        self._server = await ReplicaServer.start(
            lambda secret, observation: compose_http(
                PipelineRoutes(executor, readiness.list_unready),
                limits,
                secret,
                Authorization(specification.name),
                observation,
                usage=self.usage_sink,
                accounts=accounts,
            ),
            host,
            Route.of(specification),
            served=self.served,
            variant=specification.variant,
            report_calls=self.report_calls,
            start_phases=start.phases,
            splits=splits,
            observation=Observation(tracer=tracer),
        )
        start.end_phase("join")
        start.log(specification.name)

    async def run_predict(
        self, body: bytes, content_type: str, request_id: str | None, scheduling: Scheduling
    ) -> tuple[bytes, Served]:
        """See HandleApi; what is served names the nodes that this answer is of."""
        response, nodes = await self._executor.predict_by_nodes(body, content_type, request_id, scheduling)
        return response, self.served._replace(nodes=nodes)

    def record_autoscaling_stats(self) -> Load:
        """Called by Serve, whose policy scales by it."""
        return self._server.measure_load()

    async def __del__(self) -> None:
        await self._server.stop()
        await self._usage.stop()
        if self.accounts:
            await self.accounts.stop()
        if self.tracer:
            self.tracer.close()
