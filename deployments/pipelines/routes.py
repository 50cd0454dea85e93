"""Routes of a pipeline: extends server/routes.py; the request's id is passed on, `ready` includes the nodes' models.

Request walk: deployments.server.middleware -> [routes.py] -> executor.py
"""

from collections.abc import Awaitable, Callable

import msgspec

from deployments.pipelines.executor import PipelineExecutor
from deployments.server.asgi import Receive, Scope, Send, get_header, get_headers, send_response
from deployments.server.request_limits import read_body, reject_encoding
from deployments.server.routes import ModelRoutes
from deployments.server.scheduling import read_scheduling
from deployments.server.sse import send_events, wants_stream

ListUnready = Callable[[], Awaitable[list[str]]]
"""Lists the models that a pipeline calls and that have no ready replica."""


class PipelineRoutes(ModelRoutes):
    """The paths of a pipeline, below /v2/models/NAME."""

    def __init__(self, executor: PipelineExecutor, list_unready: ListUnready) -> None:
        super().__init__(executor)
        self._executor, self._list_unready = executor, list_unready

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        scheduling = read_scheduling(get_headers(scope), self._timeout_s)
        reject_encoding(scope)
        content_type = get_header(scope, b"content-type").decode("latin-1")
        body = await read_body(scope, receive, self._max_bytes)
        request_id = get_header(scope, b"x-request-id").decode("latin-1") or None
        if wants_stream(scope, body):
            await send_events(scope, send, self._executor.stream(body, content_type))
        else:
            await send_response(send, 200, await self._executor.predict(body, content_type, request_id, scheduling))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        unready = await self._list_unready()
        body = {"name": self._executor.endpoint.name, "ready": not unready} | ({"unready": unready} if unready else {})
        await send_response(send, 503 if unready else 200, msgspec.json.encode(body))
