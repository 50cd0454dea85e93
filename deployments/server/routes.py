"""Ingress: the layers around a model and the routes to it, all inside the replica's process.

Request walk: socket -> HAProxy -> [ingress.py: route, caller, limits] -> replica.py -> codec -> batching.py
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

import msgspec

from deployments.errors import MethodNotAllowed, NotFound, UnknownVersion, UnsupportedMediaType
from deployments.protocols.oip.binary import parse_header_length
from deployments.server.asgi import JSON, Receive, Scope, Send, get_header, send_response
from deployments.server.request_limits import read_body, reject_encoding
from deployments.server.sse import Event, send_events, wants_stream

BINARY = b"application/octet-stream"
# What curl and HTTP libraries say of a body by themselves is taken too: the protocol's clients leave it at that.
INFER_TYPES = (JSON, BINARY, b"application/x-www-form-urlencoded")
INFER_HEADER = b"inference-header-content-length"

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Servable(Protocol):
    """What answers at a model's paths: a model, or a pipeline of models."""

    endpoint: Any
    example: dict[str, Any]
    metadata: bytes

    def check_version(self, asked: str) -> None:
        """Raise UnknownVersion unless this is the version that is asked for, or none is."""

    async def infer(self, raw: bytes, header_length: int | None = None) -> tuple[bytes, int | None]:
        """Answer an Open Inference Protocol request."""

    async def predict(
        self, raw: bytes, content_type: str, request_id: str | None = None, within_s: float | None = None
    ) -> bytes:
        """Answer a request in the words of the task; a pipeline passes on the request's id and the time it has."""

    def stream(self, raw: bytes, content_type: str) -> AsyncGenerator[Event]:
        """The same, while the answer grows."""


class ModelRoutes:
    """The paths below /v2/models/NAME."""

    def __init__(self, model: Servable) -> None:
        self._model = model
        self._max_bytes = model.endpoint.limits.max_body_bytes
        name, version = model.endpoint.name, model.endpoint.version
        base, versioned = f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"
        self._versions, self._version = f"{base}/versions/", version
        self._routes: dict[str, tuple[str, Handler]] = {}
        for prefix in (base, versioned):
            self._routes |= {
                f"{prefix}/infer": ("POST", self._infer),
                f"{prefix}/predict": ("POST", self._predict),
                f"{prefix}/example": ("GET", self._example),
                f"{prefix}/ready": ("GET", self._ready),
                prefix: ("GET", self._metadata),
            }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path: str = scope["path"]
        found = self._routes.get(path)
        if found is None:
            raise self._not_found(path)
        method, handler = found
        if scope["method"] != method:
            raise MethodNotAllowed(scope["method"], method)
        await handler(scope, receive, send)

    def _not_found(self, path: str) -> NotFound:
        asked = path.removeprefix(self._versions).partition("/")[0]
        if path.startswith(self._versions) and asked != str(self._version):
            return UnknownVersion(f"version {asked!r} is not deployed; version {self._version} is")
        return NotFound(f"no path {path!r}; this model answers at {', '.join(self._routes)}")

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = get_header(scope, b"content-type")
        if kind and not kind.lower().startswith(INFER_TYPES):
            raise UnsupportedMediaType(
                f"content type {kind.decode('latin-1')!r}; send application/json or application/octet-stream"
            )
        reject_encoding(scope)
        raw = await read_body(scope, receive, self._max_bytes)
        answer, length = await self._model.infer(raw, parse_header_length(get_header(scope, INFER_HEADER), len(raw)))
        if length is None:
            await send_response(send, 200, answer)
        else:
            await send_response(send, 200, answer, BINARY, ((INFER_HEADER, b"%d" % length),))

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        reject_encoding(scope)
        kind = get_header(scope, b"content-type").decode("latin-1")
        raw = await read_body(scope, receive, self._max_bytes)
        if wants_stream(scope, raw):
            await send_events(scope, send, self._model.stream(raw, kind))
        else:
            await send_response(send, 200, await self._model.predict(raw, kind))

    async def _example(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 200, msgspec.json.encode(self._model.example))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A replica listens only once its net is loaded and warm.
        await send_response(send, 200, msgspec.json.encode({"name": self._model.endpoint.name, "ready": True}))

    async def _metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 200, self._model.metadata)
