"""The paths of a pipeline: a model's, but that a request's id goes along, and ready means the steps too.

Request walk: socket -> HAProxy -> deployments.ingress -> [routes.py] -> runner.py
"""

from collections.abc import Awaitable, Callable

import msgspec

from deployments.ingress import Routes
from deployments.layers.asgi import Receive, Scope, Send, header, respond
from deployments.layers.events import send_events, wanted
from deployments.layers.limits import read_body, refuse_encoding
from deployments.pipelines.runner import Runner

Missing = Callable[[], Awaitable[list[str]]]
"""Names the steps that have no replica which answers."""


class PipelineRoutes(Routes):
    """The paths below /v2/models/NAME of a pipeline."""

    def __init__(self, runner: Runner, missing: Missing) -> None:
        super().__init__(runner)
        self._runner, self._missing = runner, missing

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_encoding(scope)
        kind = header(scope, b"content-type").decode("latin-1")
        raw = await read_body(scope, receive, self._max_bytes)
        request_id = header(scope, b"x-request-id").decode("latin-1") or None
        if wanted(scope, raw):
            await send_events(scope, send, self._runner.stream(raw, kind))
        else:
            await respond(send, 200, await self._runner.predict(raw, kind, request_id))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        missing = await self._missing()
        body = {"name": self._runner.endpoint.name, "ready": not missing} | ({"waits_for": missing} if missing else {})
        await respond(send, 503 if missing else 200, msgspec.json.encode(body))
