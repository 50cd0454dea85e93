"""Model replica: a served model as a Serve deployment, with an HTTP server in its own process.

Deploy walk: deployments.applications -> [replica.py]
    -> trust_check.py, served_model.py, deployments.edge.replica_server
"""

from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments.access.authorization import Authorization
from deployments.access.limits.ledger_actor import open_accounts
from deployments.access.usage.replica_meter import open_pusher
from deployments.edge.membership import send_profile
from deployments.edge.replica_server import ReplicaServer
from deployments.edge.state import Route
from deployments.models.cold_start import ColdStart
from deployments.models.preload import leave_warm_processes
from deployments.models.trust_check import check_trust
from deployments.observability.observation import Observation
from deployments.observability.tracing import build_tracer
from deployments.ray_internals import bind_replica_port
from deployments.rollout.shadow import ShadowedModel
from deployments.scaling.load import Load
from deployments.server.handle_api import HandleApi
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelEndpoint
from training.schema import ClassOutput


@serve.deployment(name="replica")
class ModelReplica(HandleApi):
    """One replica; it joins the edge once its net is loaded and warm."""

    async def __init__(  # type: ignore[misc]
        self, endpoint: dict[str, Any], cache: str, host: str, slo_p99_s: float | None, application: str = ""
    ) -> None:
        bind_replica_port(host)
        leave_warm_processes()
        start = ColdStart()
        # Here, not above: Serve imports this module in a process that only binds the application, too.
        import torch

        from deployments.models.served_model import ServedModel
        from deployments.scaling.measure import measure_request_cost
        from deployments.scaling.plan import GoalCapacity

        start.end_phase("imports")
        # torch would otherwise use every core in each replica.
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        specification = ModelEndpoint.model_validate(endpoint)
        await check_trust(specification, Path(cache))
        self.servable = self._model = ServedModel(specification, Path(cache), start.end_phase, slo_p99_s=slo_p99_s)
        profile = await measure_request_cost(self._model)
        send_profile(profile)
        # Serve's policy has no other way to know it.
        self._capacity = GoalCapacity(profile, slo_p99_s) if slo_p99_s else None
        start.end_phase("warm_up")
        replica = serve.get_replica_context().replica_id.unique_id
        self.tracer = build_tracer(ServingSettings().tracing, specification.name, specification.version, replica)
        if self.tracer:
            self._model.enable_tracing(self.tracer)
        self._usage = open_pusher(specification.name, specification.version)
        self.usage_sink = self._usage.sink
        self.accounts = accounts = await open_accounts(replica)
        name, limits, routes = specification.name, specification.limits, ModelRoutes(self._model)
        shadow = ShadowedModel(
            self._model,
            ServingSettings().edge,
            is_classifier=isinstance(self._model.manifest.output_schema, ClassOutput),
            serve=routes.serve,
        )
        self._server = await ReplicaServer.start(
            lambda secret, observation: compose_http(
                routes, limits, secret, Authorization(name), observation, usage=self.usage_sink, accounts=accounts
            ),
            host,
            Route.of(specification, application),
            served=self.served,
            variant=specification.variant,
            report_passes=self._model.report_passes,
            report_calls=self.report_calls,
            start_phases=start.phases,
            shadow=shadow,
            observation=Observation(tracer=self.tracer),
        )
        start.end_phase("join")
        start.log(specification.name)

    async def check_health(self) -> None:
        """Called by Serve every few seconds; after three failures it replaces this replica."""
        await self._model.check_health()

    def record_autoscaling_stats(self) -> Load:
        """Called by Serve, whose policy scales by it."""
        load = self._server.measure_load()
        return load | self._capacity.describe(load) if self._capacity else load

    async def __del__(self) -> None:
        await self._server.stop()
        await self._usage.stop()
        if self.accounts:
            await self.accounts.stop()
        if self.tracer:
            self.tracer.close()
