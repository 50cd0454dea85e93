"""Ingress: the layers around a model and the routes to it, all inside the replica's process.

Request walk: socket -> HAProxy -> [ingress.py: route, caller, limits] -> replica.py -> codec -> batching.py
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from deployments.errors import NotFound, UnknownVersion, WrongContentType, WrongMethod
from deployments.layers.asgi import App, Receive, Scope, Send, header, respond
from deployments.layers.callers import Caller, Callers
from deployments.layers.errors import Errors
from deployments.layers.limits import Bounded, read_body, refuse_encoding
from deployments.settings import Limits

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Answering(Protocol):
    """What answers at a model's paths: a model, or a pipeline of models."""

    endpoint: Any
    example: dict[str, Any]
    metadata: bytes

    async def infer(self, raw: bytes) -> bytes:
        """Answer an Open Inference Protocol request."""

    async def predict(self, raw: bytes, content_type: str) -> bytes:
        """Answer a request in the words of the task."""


def model_app(model: Answering, callers: Mapping[str, Caller]) -> App:
    """Compose one model's application."""
    return app(Routes(model), model.endpoint.limits, callers)


def app(routes: App, limits: Limits, callers: Mapping[str, Caller]) -> App:
    """Put the layers around routes, outermost first: errors, caller, limits."""
    return Errors(Callers(Bounded(routes, limits), callers))


class Routes:
    """The paths below /v2/models/NAME."""

    def __init__(self, model: Answering) -> None:
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
            raise WrongMethod(scope["method"], method)
        await handler(scope, receive, send)

    def _not_found(self, path: str) -> NotFound:
        asked = path.removeprefix(self._versions).partition("/")[0]
        if path.startswith(self._versions) and asked != str(self._version):
            return UnknownVersion(f"version {asked!r} is not deployed; version {self._version} is")
        return NotFound(f"no path {path!r}; this model answers at {', '.join(self._routes)}")

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = header(scope, b"content-type")
        if kind and not kind.lower().startswith((b"application/json", b"application/x-www-form-urlencoded")):
            raise WrongContentType(f"content type {kind.decode('latin-1')!r}; send application/json")
        refuse_encoding(scope)
        await respond(send, 200, await self._model.infer(await read_body(scope, receive, self._max_bytes)))

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_encoding(scope)
        kind = header(scope, b"content-type").decode("latin-1")
        raw = await read_body(scope, receive, self._max_bytes)
        await respond(send, 200, await self._model.predict(raw, kind))

    async def _example(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, msgspec.json.encode(self._model.example))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A replica listens only once its net is loaded and warm.
        await respond(send, 200, msgspec.json.encode({"name": self._model.endpoint.name, "ready": True}))

    async def _metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, self._model.metadata)
