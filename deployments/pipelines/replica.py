"""Pipeline replica: a pipeline executor as a Serve deployment, which calls its models through Serve handles.

Deploy walk: deployments.applications -> [replica.py] -> executor.py -> pipeline_plan.py
Each model is an application of its own and scales by itself: a handle sends a call to the least loaded replica.
"""

import asyncio
import time
from typing import Any

from ray import serve

from deployments.pipelines.executor import PipelineExecutor
from deployments.pipelines.routes import PipelineRoutes
from deployments.ray_internals import bind_replica_port
from deployments.server.asgi import App
from deployments.server.authentication import Caller
from deployments.server.handle_api import HandleApi
from deployments.server.handle_client import HandleClient
from deployments.server.middleware import compose_http
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


@serve.deployment(name="replica")
@serve.ingress()
class PipelineReplica(HandleApi):
    """A pipeline executor as a Serve deployment, with the server's layers in its own process."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], host: str) -> None:
        bind_replica_port(host)
        self.servable = self._executor = PipelineExecutor(
            PipelineEndpoint.model_validate(endpoint), HandleClient().predict
        )
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        endpoint = self._executor.endpoint
        readiness = NodeReadiness(endpoint.pipeline.list_models())
        return compose_http(PipelineRoutes(self._executor, readiness.list_unready), endpoint.limits, self._callers)
