"""The paths of a pipeline: a model's, but that a request's id goes along, and ready means the steps too.

Request walk: socket -> HAProxy -> deployments.server.routes -> [routes.py] -> runner.py
"""

from collections.abc import Awaitable, Callable

import msgspec

from deployments.pipelines.executor import PipelineExecutor
from deployments.server.asgi import Receive, Scope, Send, get_header, send_response
from deployments.server.request_limits import read_body, reject_encoding
from deployments.server.routes import ModelRoutes
from deployments.server.sse import send_events, wants_stream

Missing = Callable[[], Awaitable[list[str]]]
"""Names the steps that have no replica which answers."""


class PipelineRoutes(ModelRoutes):
    """The paths below /v2/models/NAME of a pipeline."""

    def __init__(self, runner: PipelineExecutor, missing: Missing) -> None:
        super().__init__(runner)
        self._runner, self._missing = runner, missing

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        reject_encoding(scope)
        kind = get_header(scope, b"content-type").decode("latin-1")
        raw = await read_body(scope, receive, self._max_bytes)
        request_id = get_header(scope, b"x-request-id").decode("latin-1") or None
        if wants_stream(scope, raw):
            await send_events(scope, send, self._runner.stream(raw, kind))
        else:
            await send_response(send, 200, await self._runner.predict(raw, kind, request_id))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        missing = await self._missing()
        body = {"name": self._runner.endpoint.name, "ready": not missing} | ({"waits_for": missing} if missing else {})
        await send_response(send, 503 if missing else 200, msgspec.json.encode(body))
