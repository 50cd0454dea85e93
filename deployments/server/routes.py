"""The routes of one model, or of a pipeline with pipelines/routes.py, inside its replica's process.

Request walk: middleware.py -> [routes.py] -> deployments.models.served_model or deployments.pipelines.executor
"""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Protocol

import msgspec

from deployments.errors import MethodNotAllowed, NotFound, UnsupportedMediaType
from deployments.protocols.oip.binary import HEADER_LENGTH, parse_header_length
from deployments.server.request import JSON, Handler, Request, Response
from deployments.server.request_limits import reject_encoding
from deployments.server.sse import Event, send_events, wants_stream
from deployments.specs.model_deployment import Endpoint

OCTET_STREAM = b"application/octet-stream"
# curl and HTTP libraries send the last one by default, and the protocol's clients do not change it.
INFER_CONTENT_TYPES = (JSON, OCTET_STREAM, b"application/x-www-form-urlencoded")


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
        name, version = model.endpoint.name, model.endpoint.version
        base, versioned = f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"
        self._versions_prefix = f"{base}/versions/"
        self._routes: dict[bytes, tuple[str, Handler]] = {}
        for prefix in (base, versioned):
            path = prefix.encode()
            self._routes |= {
                path + b"/infer": ("POST", self._infer),
                path + b"/predict": ("POST", self._predict),
                path + b"/example": ("GET", self._example),
                path + b"/ready": ("GET", self._ready),
                path: ("GET", self._metadata),
            }

    def __call__(self, request: Request) -> Awaitable[Response | None]:
        """Answer a request."""
        route = self._routes.get(request.target) or self._routes.get(request.path.encode())
        if route is None:
            raise self._not_found(request.path)
        method, handler = route
        if request.method != method:
            raise MethodNotAllowed(request.method, method)
        return handler(request)

    def _not_found(self, path: str) -> NotFound:
        version = path.removeprefix(self._versions_prefix).partition("/")[0]
        if path.startswith(self._versions_prefix):
            self._model.endpoint.check_version(version)
        return NotFound(f"no path {path!r}; this model has {', '.join(each.decode() for each in self._routes)}")

    async def _infer(self, request: Request) -> Response:
        reject_content_type(request)
        reject_encoding(request)
        body = request.body
        header_length = request.headers.get(HEADER_LENGTH)
        if header_length is not None:
            length = parse_header_length(header_length, len(body))
            response, length = await self._model.infer(body, length)
        else:
            response, length = await self._model.infer(body)
        if length is None:
            return Response(200, response)
        return Response(200, response, OCTET_STREAM, ((HEADER_LENGTH, b"%d" % length),))

    async def _predict(self, request: Request) -> Response | None:
        reject_encoding(request)
        content_type = request.get_header(b"content-type").decode("latin-1")
        if wants_stream(request):
            await send_events(request, self._model.stream(request.body, content_type))
            return None
        return Response(200, await self._model.predict(request.body, content_type, request.request_id))

    async def _example(self, request: Request) -> Response:
        return Response(200, msgspec.json.encode(self._model.example))

    async def _ready(self, request: Request) -> Response:
        # A replica listens only once its net is loaded and warm.
        return Response(200, msgspec.json.encode({"name": self._model.endpoint.name, "ready": True}))

    async def _metadata(self, request: Request) -> Response:
        return Response(200, self._model.metadata)


def reject_content_type(request: Request) -> None:
    """Refuse bodies of other types than Open Inference Protocol requests have.

    Raises:
        UnsupportedMediaType: the body is of another type.
    """
    content_type = request.headers.get(b"content-type", b"")
    if content_type and not content_type.lower().startswith(INFER_CONTENT_TYPES):
        raise UnsupportedMediaType(
            f"content type {content_type.decode('latin-1')!r} is not supported; "
            "send application/json or application/octet-stream"
        )
