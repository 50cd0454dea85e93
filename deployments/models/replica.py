"""Model replica: a served model as a Serve deployment, with the server's layers in its own process.

Deploy walk: deployments.applications -> [replica.py] -> served_model.py
"""

from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments.ray_internals import bind_replica_port
from deployments.server import fast_path
from deployments.server.asgi import App
from deployments.server.authentication import Caller
from deployments.server.handle_api import HandleApi
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.specs.model_deployment import ModelEndpoint


@serve.deployment(name="replica")
@serve.ingress()
class ModelReplica(HandleApi):
    """One replica; it listens once its net is loaded and warm."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], cache: str, host: str) -> None:
        bind_replica_port(host)
        # Here, not above: Serve imports this module in a process that only binds the application, too.
        import torch

        from deployments.models.served_model import ServedModel

        # torch would otherwise use every core in each replica.
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        self.servable = self._model = ServedModel(ModelEndpoint.model_validate(endpoint), Path(cache))
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    async def check_health(self) -> None:
        """Called by Serve every few seconds; after three failures it replaces this replica."""
        await self._model.check_health()

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        app = compose_http(ModelRoutes(self.servable), self.servable.endpoint.limits, self._callers)
        fast_path.install_fast_path(app)
        return app
