"""Model replica: a served model as a Serve deployment, with an HTTP server in its own process.

Deploy walk: deployments.applications -> [replica.py] -> served_model.py, deployments.edge.replica_server
"""

import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments.edge.replica_server import ReplicaServer
from deployments.edge.state import Route
from deployments.observability.observation import Observation
from deployments.observability.tracing import build_tracer
from deployments.ray_internals import bind_replica_port
from deployments.scaling.policy import Load, report_load
from deployments.server.handle_api import HandleApi
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelEndpoint


@serve.deployment(name="replica")
class ModelReplica(HandleApi):
    """One replica; it joins the edge once its net is loaded and warm."""

    async def __init__(self, endpoint: dict[str, Any], cache: str, host: str) -> None:  # type: ignore[misc]
        constructed_s = time.monotonic()
        bind_replica_port(host)
        # Here, not above: Serve imports this module in a process that only binds the application, too.
        import torch

        from deployments.models.served_model import ServedModel

        # torch would otherwise use every core in each replica.
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        specification = ModelEndpoint.model_validate(endpoint)
        self.servable = self._model = ServedModel(specification, Path(cache))
        limits = specification.limits
        replica = serve.get_replica_context().replica_id.unique_id
        self.tracer = build_tracer(ServingSettings().tracing, specification.name, specification.version, replica)
        if self.tracer:
            self._model.enable_tracing(self.tracer)
        self._server = await ReplicaServer.start(
            lambda secret, observation: compose_http(ModelRoutes(self._model), limits, secret, observation),
            host,
            Route.of(specification),
            version=specification.version,
            variant=specification.variant,
            report_passes=self._model.report_passes,
            count_calls=lambda: self.ongoing_calls,
            report_calls=self.call_statistics.report_calls,
            observation=Observation(tracer=self.tracer),
            constructed_s=constructed_s,
        )

    async def check_health(self) -> None:
        """Called by Serve every few seconds; after three failures it replaces this replica."""
        await self._model.check_health()

    def record_autoscaling_stats(self) -> Load:
        """Called by Serve, whose policy scales by it."""
        return report_load(self._server.ongoing + self.ongoing_calls)

    async def __del__(self) -> None:
        await self._server.stop()
        if self.tracer:
            self.tracer.close()
