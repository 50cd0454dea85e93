"""The routes of one model, or of a pipeline with pipelines/routes.py, inside its replica's process.

Request walk: middleware.py -> [routes.py] -> deployments.models.served_model or deployments.pipelines.executor
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

import msgspec

from deployments.errors import MethodNotAllowed, NotFound, UnsupportedMediaType
from deployments.protocols.oip.binary import HEADER_LENGTH, parse_header_length
from deployments.server.asgi import JSON, Receive, Scope, Send, get_header, send_response
from deployments.server.request_limits import read_body, reject_encoding
from deployments.server.sse import Event, send_events, wants_stream
from deployments.specs.model_deployment import Endpoint

OCTET_STREAM = b"application/octet-stream"
# curl and HTTP libraries send the last one by default, and the protocol's clients do not change it.
INFER_CONTENT_TYPES = (JSON, OCTET_STREAM, b"application/x-www-form-urlencoded")

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Servable(Protocol):
    """What a replica serves: a model, or a pipeline of models."""

    example: dict[str, Any]
    metadata: bytes

    @property
    def endpoint(self) -> Endpoint:
        """What is served: name, version, limits."""

    async def infer(self, body: bytes, header_length: int | None = None) -> tuple[bytes, int | None]:
        """Run an Open Inference Protocol request; the second values are the lengths of the JSON parts."""

    async def predict(
        self, body: bytes, content_type: str, request_id: str | None = None, timeout_s: float | None = None
    ) -> bytes:
        """Run a request in the task's JSON form; a pipeline passes the request's id and remaining time on."""

    def stream(self, body: bytes, content_type: str) -> AsyncGenerator[Event]:
        """Run the same request and yield its output while it grows."""


class ModelRoutes:
    """The paths below /v2/models/NAME."""

    def __init__(self, model: Servable) -> None:
        self._model = model
        self._max_bytes = model.endpoint.limits.max_body_bytes
        name, version = model.endpoint.name, model.endpoint.version
        base, versioned = f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"
        self._versions_prefix = f"{base}/versions/"
        self._routes: dict[str, tuple[str, Handler]] = {}
        for prefix in (base, versioned):
            self._routes |= {
                f"{prefix}/infer": ("POST", self._infer),
                f"{prefix}/predict": ("POST", self._predict),
                f"{prefix}/example": ("GET", self._example),
                f"{prefix}/ready": ("GET", self._ready),
                prefix: ("GET", self._metadata),
            }

    def serve(self, model: Servable) -> None:
        """Answer by another servable of the same model from now on."""
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path: str = scope["path"]
        route = self._routes.get(path)
        if route is None:
            raise self._not_found(path)
        method, handler = route
        if scope["method"] != method:
            raise MethodNotAllowed(scope["method"], method)
        await handler(scope, receive, send)

    def _not_found(self, path: str) -> NotFound:
        version = path.removeprefix(self._versions_prefix).partition("/")[0]
        if path.startswith(self._versions_prefix):
            self._model.endpoint.check_version(version)
        return NotFound(f"no path {path!r}; this model has {', '.join(self._routes)}")

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        reject_content_type(scope)
        reject_encoding(scope)
        body = await read_body(scope, receive, self._max_bytes)
        header_length = parse_header_length(get_header(scope, HEADER_LENGTH), len(body))
        response, header_length = await self._model.infer(body, header_length)
        if header_length is None:
            await send_response(send, 200, response)
        else:
            await send_response(send, 200, response, OCTET_STREAM, ((HEADER_LENGTH, b"%d" % header_length),))

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        reject_encoding(scope)
        content_type = get_header(scope, b"content-type").decode("latin-1")
        body = await read_body(scope, receive, self._max_bytes)
        if wants_stream(scope, body):
            await send_events(scope, send, self._model.stream(body, content_type))
        else:
            await send_response(send, 200, await self._model.predict(body, content_type))

    async def _example(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 200, msgspec.json.encode(self._model.example))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A replica listens only once its net is loaded and warm.
        await send_response(send, 200, msgspec.json.encode({"name": self._model.endpoint.name, "ready": True}))

    async def _metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 200, self._model.metadata)


def reject_content_type(scope: Scope) -> None:
    """Refuse bodies of other types than Open Inference Protocol requests have.

    Raises:
        UnsupportedMediaType: the body is of another type.
    """
    content_type = get_header(scope, b"content-type")
    if content_type and not content_type.lower().startswith(INFER_CONTENT_TYPES):
        raise UnsupportedMediaType(
            f"content type {content_type.decode('latin-1')!r} is not supported; "
            "send application/json or application/octet-stream"
        )
