"""The control application at `/`: health, the catalogue, the stable address of each model, one OpenAPI for all.

Not on the hot path: a call to /v2/models/NAME never comes here, unless no such model is deployed.
"""

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from deployments import errors
from deployments.control import openapi
from deployments.control.catalog import Catalog
from deployments.errors import ClientError, MethodNotAllowed, NotFound, Unavailable, UnknownModel
from deployments.protocols.oip.codec import EXTENSIONS
from deployments.server.asgi import App, Receive, Scope, Send
from deployments.server.authentication import Caller
from deployments.server.bind_host import bind_replica_port
from deployments.server.error_responses import encode_error_for
from deployments.server.handle_client import HandleClient
from deployments.server.layers import compose_http
from deployments.server.request_limits import read_body, reject_encoding
from deployments.server.sse import MEDIA_TYPE, Event, send_events, wants_stream
from deployments.settings import ServingSettings
from training.errors import UserError


@serve.deployment(name="control")
@serve.ingress()
class Control:
    """The control application as a Serve deployment."""

    def __init__(self, keys: dict[str, str], host: str, gateway: DeploymentHandle[Any]) -> None:
        # `gateway` makes gRPC's part of this application; nothing here calls it.
        bind_replica_port(host)
        self._callers = {digest: Caller(name) for digest, name in keys.items()}
        self._settings = ServingSettings()

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        api = build_api(Catalog(self._settings), self._settings)
        return compose_http(api, self._settings.limits, self._callers)


def build_api(catalogue: Catalog, settings: ServingSettings) -> FastAPI:
    """Make the FastAPI application, without layers."""
    # The pages' scripts come from this server: a cluster need not reach the internet.
    api = FastAPIOffline(title="Shoal", version=openapi.VERSION)
    api.openapi = lambda: openapi.build_openapi(api, catalogue)  # type: ignore[method-assign]
    _install_error_handlers(api)
    handles = HandleClient()

    @api.get("/v2/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """Say that the service runs."""
        return {"live": True}

    @api.get("/v2/health/ready", tags=["health"])
    def ready() -> JSONResponse:
        """Say whether every deployed model answers."""
        statuses = catalogue.fetch_statuses()
        is_ready = all(status == "RUNNING" for status in statuses.values())
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @api.get("/v2", tags=["health"])
    async def server_metadata() -> dict[str, Any]:
        """Name the server, as the Open Inference Protocol has it."""
        return {"name": "shoal", "version": openapi.VERSION, "extensions": list(EXTENSIONS)}

    @api.get("/api/v1/models", tags=["catalogue"])
    def models() -> dict[str, Any]:
        """List all models: what each is for, its versions, whether and how it is served."""
        return {"models": catalogue.list_models()}

    @api.get("/api/v1/models/{name}", tags=["catalogue"])
    def one_model(name: str) -> dict[str, Any]:
        """Give one model's versions, card and manifest."""
        try:
            return catalogue.describe_model(name)
        except UserError as error:
            raise UnknownModel(str(error)) from None

    @api.post("/api/v1/models/{name}/predict", tags=["models"])
    async def predict(name: str, request: Request) -> Response:
        """Ask a model, at the address that stays the same however it is served."""
        deployed = await run_in_threadpool(catalogue.list_deployed)
        if name not in deployed:
            raise UnknownModel(f"no model {name!r} is deployed; deployed: {', '.join(deployed) or 'none'}")
        reject_encoding(request.scope)
        raw = await read_body(request.scope, request.receive, settings.limits.max_body_bytes)
        kind = request.headers.get("content-type", "")
        request_id = request.headers.get("x-request-id")
        try:
            if wants_stream(request.scope, raw):
                handle: DeploymentHandle[Any] = await run_in_threadpool(serve.get_app_handle, name)
                return EventStreamResponse(relay_events(handle, name, raw, kind, request_id))
            status, body = await handles(name, raw, request_id, settings.limits.request_timeout_s, kind)
        except (RayServeException, RayActorError):
            raise _unavailable(name) from None
        return Response(body, status, media_type="application/json")

    return api


class EventStreamResponse(Response):
    """A stream of events as FastAPI takes it."""

    media_type = MEDIA_TYPE.decode()

    def __init__(self, events: AsyncGenerator[Event]) -> None:
        super().__init__()
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send_events(scope, send, self._events)


async def relay_events(
    handle: DeploymentHandle[Any], name: str, raw: bytes, kind: str, request_id: str | None
) -> AsyncGenerator[Event]:
    """Give a model's events as they come through its handle; closing it stops the replica's work.

    Raises:
        ClientError: the replica's own.
        Unavailable: no replica answers.
    """
    asked: DeploymentResponseGenerator[Any]
    asked = handle.options(stream=True).stream.remote(raw, kind, request_id)  # type: ignore[assignment]
    try:
        async for status, event, data in asked:
            if status != 200:
                raise errors.parse_error(status, data)
            yield event, data
    except (RayServeException, RayActorError):
        raise _unavailable(name) from None
    finally:
        asked.cancel()


def _unavailable(name: str) -> Unavailable:
    return Unavailable(f"no replica of {name} answers now; try again shortly")


def _install_error_handlers(api: FastAPI) -> None:
    """Give FastAPI's own refusals the form that an error has everywhere."""

    @api.exception_handler(ClientError)
    async def ours(request: Request, error: ClientError) -> Response:
        body = encode_error_for(request.scope, error.code, error.message)
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(body, error.status, headers, media_type="application/json")

    @api.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            return await ours(request, MethodNotAllowed(request.method, (error.headers or {}).get("Allow", "another")))
        if path.startswith("/v2/models/"):
            said = f"no model {path.split('/')[3]!r} is deployed; GET /api/v1/models lists those there are"
            return await ours(request, UnknownModel(said))
        return await ours(request, NotFound(f"no path {path!r}; GET /openapi.json lists those there are"))
