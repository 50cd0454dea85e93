"""Routes of a pipeline: extends server/routes.py; `ready` includes the nodes' models, and answers name them.

Request walk: deployments.server.middleware -> [routes.py] -> executor.py
"""

from collections.abc import Awaitable, Callable

import msgspec

from deployments.pipelines.executor import PipelineExecutor
from deployments.server.request import Request, Response
from deployments.server.routes import ModelRoutes
from deployments.server.served import NODES_HEADER, encode_nodes

ListUnready = Callable[[], Awaitable[list[str]]]
"""Lists the models that a pipeline calls and that have no ready replica."""


class PipelineRoutes(ModelRoutes):
    """The paths of a pipeline, below /v2/models/NAME."""

    def __init__(self, executor: PipelineExecutor, list_unready: ListUnready) -> None:
        super().__init__(executor)
        self._executor, self._list_unready = executor, list_unready

    async def _run_predict(self, request: Request, content_type: str) -> Response:
        body, nodes = await self._executor.predict_by_nodes(
            request.body, content_type, request.request_id, request.scheduling
        )
        return Response(200, body, headers=((NODES_HEADER, encode_nodes(nodes).encode()),))

    async def _ready(self, request: Request) -> Response:
        unready = await self._list_unready()
        body = {"name": self._executor.endpoint.name, "ready": not unready} | ({"unready": unready} if unready else {})
        return Response(503 if unready else 200, msgspec.json.encode(body))
