"""The routes of one model, or of a pipeline with pipelines/routes.py, inside its replica's process.

Request walk: middleware.py -> [routes.py] -> deployments.models.served_model or deployments.pipelines.executor
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import msgspec

from deployments.access.caller import CURRENT_CALLER
from deployments.access.usage.call_event import CURRENT_EVENT
from deployments.access.usage.request_usage import CURRENT_USAGE, RequestUsage
from deployments.errors import MethodNotAllowed, NotFound, UnsupportedMediaType
from deployments.protocols.oip.binary import HEADER_LENGTH, parse_header_length
from deployments.protocols.oip.codec import InferResponse
from deployments.server.request import JSON, Handler, Request, Response
from deployments.server.request_limits import reject_encoding
from deployments.server.scheduling import Scheduling
from deployments.server.sse import Event, send_events, wants_stream
from deployments.specs.model_deployment import Endpoint

OCTET_STREAM = b"application/octet-stream"
# curl and HTTP libraries send the last one by default, and the protocol's clients do not change it.
INFER_CONTENT_TYPES = (JSON, OCTET_STREAM, b"application/x-www-form-urlencoded")


class Submitted(Protocol):
    """A request that a servable has taken."""

    def abandon(self) -> None:
        """Its caller has left."""


class Servable(Protocol):
    """What a replica serves: a model, or a pipeline of models."""

    example: dict[str, Any]
    metadata: bytes

    @property
    def endpoint(self) -> Endpoint:
        """What is served: name, version, limits."""

    async def infer(
        self, body: bytes, header_length: int | None = None, scheduling: Scheduling | None = None
    ) -> InferResponse:
        """Run an Open Inference Protocol request; `header_length` is that of its JSON part."""

    async def predict(
        self, body: bytes, content_type: str, request_id: str | None = None, scheduling: Scheduling | None = None
    ) -> bytes:
        """Run a request in the task's JSON form; a pipeline passes the request's id and scheduling on."""

    def stream(self, body: bytes, content_type: str, scheduling: Scheduling | None = None) -> AsyncGenerator[Event]:
        """Run the same request and yield its output while it grows."""


@runtime_checkable
class SubmitsInfer(Protocol):
    """A servable that takes small requests without a task."""

    def submit_infer(
        self,
        body: bytes,
        header_length: int | None,
        scheduling: Scheduling | None,
        on_done: Callable[[InferResponse | Exception], None],
        usage: RequestUsage | None = None,
    ) -> Submitted | None:
        """Do as `infer`, and call `on_done` later; None for a request that `infer` has to take."""


class ModelRoutes:
    """The paths below /v2/models/NAME."""

    def __init__(self, model: Servable) -> None:
        self.serve(model)
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

    def serve(self, model: Servable) -> None:
        """Answer by another servable of the same model from now on."""
        self._model = model
        self._submit_infer = model.submit_infer if isinstance(model, SubmitsInfer) else None

    def __call__(self, request: Request) -> Awaitable[Response | None] | None:
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

    def _infer(self, request: Request) -> Awaitable[Response | None] | None:
        reject_content_type(request)
        reject_encoding(request)
        header_length, length = request.headers.get(HEADER_LENGTH), None
        if header_length is not None:
            length = parse_header_length(header_length, len(request.body))
        # For whom the batcher computes.
        CURRENT_CALLER.set(request.caller)
        if self._submit_infer is not None and request.trace is None and not request.needs_task:
            on_done = partial(_respond_infer, request)
            submitted = self._submit_infer(request.body, length, request.scheduling, on_done, request.usage)
            if submitted is not None:
                request.on_cancel = submitted.abandon
                return None
        return self._await_infer(request, length)

    async def _await_infer(self, request: Request, length: int | None) -> Response:
        _set_context(request)
        return _build_infer_response(*await self._model.infer(request.body, length, request.scheduling))

    async def _predict(self, request: Request) -> Response | None:
        _set_context(request)
        reject_encoding(request)
        content_type = request.get_header(b"content-type").decode("latin-1")
        if wants_stream(request):
            await send_events(request, self._model.stream(request.body, content_type, request.scheduling))
            return None
        return await self._run_predict(request, content_type)

    async def _run_predict(self, request: Request, content_type: str) -> Response:
        body = await self._model.predict(request.body, content_type, request.request_id, request.scheduling)
        return Response(200, body)

    async def _example(self, request: Request) -> Response:
        return Response(200, msgspec.json.encode(self._model.example))

    async def _ready(self, request: Request) -> Response:
        # A replica listens only once its net is loaded and warm.
        return Response(200, msgspec.json.encode({"name": self._model.endpoint.name, "ready": True}))

    async def _metadata(self, request: Request) -> Response:
        return Response(200, self._model.metadata)


def _set_context(request: Request) -> None:
    """Say for whom this task works, and what it counts into."""
    CURRENT_CALLER.set(request.caller)
    CURRENT_USAGE.set(request.usage)
    CURRENT_EVENT.set(None if request.usage is None else request.usage.event)


def _respond_infer(request: Request, result: InferResponse | Exception) -> None:
    if isinstance(result, Exception):
        request.fail(result)
    else:
        request.respond(_build_infer_response(*result))


def _build_infer_response(body: bytes, header_length: int | None) -> Response:
    if header_length is None:
        return Response(200, body)
    return Response(200, body, OCTET_STREAM, ((HEADER_LENGTH, b"%d" % header_length),))


def reject_content_type(request: Request) -> None:
    """Refuse bodies of other types than Open Inference Protocol requests have.

    Raises:
        UnsupportedMediaType: the body is of another type.
    """
    content_type = request.headers.get(b"content-type")
    if content_type and content_type != JSON and not content_type.lower().startswith(INFER_CONTENT_TYPES):
        raise UnsupportedMediaType(
            f"content type {content_type.decode('latin-1')!r} is not supported; "
            "send application/json or application/octet-stream"
        )
