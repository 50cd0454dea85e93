"""Pipeline replica: a Runner as a Serve deployment, which asks its models through Serve's handles.

Deploy walk:  deployments.applications -> [replica.py] -> plan.py
Request walk: socket -> HAProxy -> deployments.server.routes -> routes.py -> runner.py -> [replica.py: handles] -> each model
Each model is an application of its own and scales by itself: a handle sends a call to the replica with the least to do.
"""

import asyncio
import time
from typing import Any

from ray import serve

from deployments.pipelines.executor import PipelineExecutor
from deployments.pipelines.routes import PipelineRoutes
from deployments.server.asgi import App
from deployments.server.authentication import Caller
from deployments.server.bind_host import bind_replica_port
from deployments.server.handle_api import HandleApi
from deployments.server.handle_client import HandleClient
from deployments.server.layers import compose_http
from deployments.specs.record import PipelineEndpoint

STATUS_S = 1.0


class NodeReadiness:
    """Whether a pipeline's models run, as Serve tells; asked once a second at the most."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._missing: list[str] = []
        self._asked_s = float("-inf")

    async def list_missing(self) -> list[str]:
        """The models that do not run."""
        if time.monotonic() - self._asked_s > STATUS_S:
            applications = (await asyncio.to_thread(serve.status)).applications
            running = {name for name, each in applications.items() if each.status.value == "RUNNING"}
            self._missing, self._asked_s = [name for name in self._names if name not in running], time.monotonic()
        return self._missing


@serve.deployment(name="replica")
@serve.ingress()
class PipelineReplica(HandleApi):
    """A Runner as a Serve deployment, with the ingress layers in its own process."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], host: str) -> None:
        bind_replica_port(host)
        self._runner = PipelineExecutor(PipelineEndpoint.model_validate(endpoint), HandleClient())
        self.servable = self._runner
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        steps = NodeReadiness(self._runner.endpoint.pipeline.list_models())
        return compose_http(
            PipelineRoutes(self._runner, steps.list_missing), self._runner.endpoint.limits, self._callers
        )
