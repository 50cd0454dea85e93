"""Ingress: the layers around a model and the routes to it, all inside the replica's process.

Request walk: socket -> HAProxy -> [ingress.py: route, caller, limits] -> replica.py -> codec -> batching.py
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from deployments.codec.binary import header_length
from deployments.errors import NotFound, UnknownVersion, WrongContentType, WrongMethod
from deployments.layers.asgi import JSON, App, Receive, Scope, Send, header, respond
from deployments.layers.callers import Caller, Callers
from deployments.layers.errors import Errors
from deployments.layers.events import send_events, wanted
from deployments.layers.limits import Bounded, read_body, refuse_encoding
from deployments.layers.presence import while_present

if TYPE_CHECKING:
    from deployments.replica import Model

BINARY = b"application/octet-stream"
# What curl and HTTP libraries say of a body by themselves is taken too: the protocol's clients leave it at that.
INFER_TYPES = (JSON, BINARY, b"application/x-www-form-urlencoded")
INFER_HEADER = b"inference-header-content-length"

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


def model_app(model: "Model", callers: Mapping[str, Caller]) -> App:
    """Compose one model's application, outermost layer first: errors, caller, limits, routes."""
    return Errors(Callers(Bounded(Routes(model), model.endpoint.limits), callers))


class Routes:
    """The paths below /v2/models/NAME."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._max_bytes = model.endpoint.limits.max_body_bytes
        name, version = model.manifest.name, model.endpoint.version
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
        if kind and not kind.lower().startswith(INFER_TYPES):
            raise WrongContentType(
                f"content type {kind.decode('latin-1')!r}; send application/json or application/octet-stream"
            )
        refuse_encoding(scope)
        raw = await read_body(scope, receive, self._max_bytes)
        answer, length = await self._model.infer(raw, header_length(header(scope, INFER_HEADER), len(raw)))
        if length is None:
            await respond(send, 200, answer)
        else:
            await respond(send, 200, answer, BINARY, ((INFER_HEADER, b"%d" % length),))

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_encoding(scope)
        kind = header(scope, b"content-type").decode("latin-1")
        raw = await read_body(scope, receive, self._max_bytes)
        if wanted(scope, raw):
            await send_events(scope, receive, send, self._model.stream(raw, kind))
        elif self._model.writes:
            # Long work: it ends when nobody waits for it any more.
            await respond(send, 200, await while_present(receive, self._model.predict(raw, kind)))
        else:
            await respond(send, 200, await self._model.predict(raw, kind))

    async def _example(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, msgspec.json.encode(self._model.example))

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A replica listens only once its net is loaded and warm.
        await respond(send, 200, msgspec.json.encode({"name": self._model.manifest.name, "ready": True}))

    async def _metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, self._model.metadata)
