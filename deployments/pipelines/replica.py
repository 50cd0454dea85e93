"""Pipeline replica: a Runner as a Serve deployment, which asks its models through Serve's handles.

Deploy walk:  deployments.apps -> [replica.py] -> plan.py
Request walk: socket -> HAProxy -> deployments.ingress -> routes.py -> runner.py -> [replica.py: handles] -> each model
Each model is an application of its own and scales by itself: a handle sends a call to the replica with the least to do.
"""

import asyncio
import time
from typing import Any

from ray import serve

from deployments import ingress
from deployments.by_handle import ByHandle
from deployments.confine import confine
from deployments.handles import Handles
from deployments.layers.asgi import App
from deployments.layers.callers import Caller
from deployments.pipelines.deployment import PipelineEndpoint
from deployments.pipelines.routes import PipelineRoutes
from deployments.pipelines.runner import Runner

STATUS_S = 1.0


class Steps:
    """Whether a pipeline's models run, as Serve tells; asked once a second at the most."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._missing: list[str] = []
        self._asked_s = float("-inf")

    async def missing(self) -> list[str]:
        """The models that do not run."""
        if time.monotonic() - self._asked_s > STATUS_S:
            applications = (await asyncio.to_thread(serve.status)).applications
            running = {name for name, each in applications.items() if each.status.value == "RUNNING"}
            self._missing, self._asked_s = [name for name in self._names if name not in running], time.monotonic()
        return self._missing


@serve.deployment(name="replica")
@serve.ingress()
class PipelineReplica(ByHandle):
    """A Runner as a Serve deployment, with the ingress layers in its own process."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], host: str) -> None:
        confine(host)
        self._runner = Runner(PipelineEndpoint.model_validate(endpoint), Handles())
        self.answering = self._runner
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        steps = Steps(self._runner.endpoint.pipeline.models())
        return ingress.app(PipelineRoutes(self._runner, steps.missing), self._runner.endpoint.limits, self._callers)
