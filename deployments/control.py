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

from deployments import errors, openapi
from deployments.catalogue import Catalogue
from deployments.codec import oip
from deployments.confine import confine
from deployments.errors import ClientError, NotFound, Unavailable, UnknownModel, WrongMethod
from deployments.handles import Handles
from deployments.layers.asgi import App, Receive, Scope, Send
from deployments.layers.callers import Caller, Callers
from deployments.layers.errors import Errors, error_body
from deployments.layers.events import KIND, Event, send_events, wanted
from deployments.layers.limits import Bounded, read_body, refuse_encoding
from deployments.settings import ServingSettings
from training.errors import Mistake


@serve.deployment(name="control")
@serve.ingress()
class Control:
    """The control application as a Serve deployment."""

    def __init__(self, keys: dict[str, str], host: str, gateway: DeploymentHandle[Any]) -> None:
        # `gateway` makes gRPC's part of this application; nothing here calls it.
        confine(host)
        self._callers = {digest: Caller(name) for digest, name in keys.items()}
        self._settings = ServingSettings()

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        api = build_api(Catalogue(self._settings), self._settings)
        return Errors(Callers(Bounded(api, self._settings.limits), self._callers))


def build_api(catalogue: Catalogue, settings: ServingSettings) -> FastAPI:
    """Make the FastAPI application, without layers."""
    # The pages' scripts come from this server: a cluster need not reach the internet.
    api = FastAPIOffline(title="Shoal", version=openapi.VERSION)
    api.openapi = lambda: openapi.describe(api, catalogue)  # type: ignore[method-assign]
    _answer_errors_in_our_words(api)
    handles = Handles()

    @api.get("/v2/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """Say that the service runs."""
        return {"live": True}

    @api.get("/v2/health/ready", tags=["health"])
    def ready() -> JSONResponse:
        """Say whether every deployed model answers."""
        statuses = catalogue.statuses()
        is_ready = all(status == "RUNNING" for status in statuses.values())
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @api.get("/v2", tags=["health"])
    async def server_metadata() -> dict[str, Any]:
        """Name the server, as the Open Inference Protocol has it."""
        return {"name": "shoal", "version": openapi.VERSION, "extensions": list(oip.EXTENSIONS)}

    @api.get("/api/v1/models", tags=["catalogue"])
    def models() -> dict[str, Any]:
        """List all models: what each is for, its versions, whether and how it is served."""
        return {"models": catalogue.models()}

    @api.get("/api/v1/models/{name}", tags=["catalogue"])
    def one_model(name: str) -> dict[str, Any]:
        """Give one model's versions, card and manifest."""
        try:
            return catalogue.model(name)
        except Mistake as error:
            raise UnknownModel(str(error)) from None

    @api.post("/api/v1/models/{name}/predict", tags=["models"])
    async def predict(name: str, request: Request) -> Response:
        """Ask a model, at the address that stays the same however it is served."""
        deployed = await run_in_threadpool(catalogue.deployed)
        if name not in deployed:
            raise UnknownModel(f"no model {name!r} is deployed; deployed: {', '.join(deployed) or 'none'}")
        refuse_encoding(request.scope)
        raw = await read_body(request.scope, request.receive, settings.limits.max_body_bytes)
        kind = request.headers.get("content-type", "")
        request_id = request.headers.get("x-request-id")
        try:
            if wanted(request.scope, raw):
                handle: DeploymentHandle[Any] = await run_in_threadpool(serve.get_app_handle, name)
                return Events(relayed(handle, name, raw, kind, request_id))
            status, body = await handles(name, raw, request_id, settings.limits.request_timeout_s, kind)
        except (RayServeException, RayActorError):
            raise _unavailable(name) from None
        return Response(body, status, media_type="application/json")

    return api


class Events(Response):
    """A stream of events as FastAPI takes it."""

    media_type = KIND.decode()

    def __init__(self, events: AsyncGenerator[Event]) -> None:
        super().__init__()
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send_events(scope, send, self._events)


async def relayed(
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
                raise errors.parse(status, data)
            yield event, data
    except (RayServeException, RayActorError):
        raise _unavailable(name) from None
    finally:
        asked.cancel()


def _unavailable(name: str) -> Unavailable:
    return Unavailable(f"no replica of {name} answers now; try again shortly")


def _answer_errors_in_our_words(api: FastAPI) -> None:
    """Give FastAPI's own refusals the form that an error has everywhere."""

    @api.exception_handler(ClientError)
    async def ours(request: Request, error: ClientError) -> Response:
        body = error_body(request.scope, error.code, error.message)
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(body, error.status, headers, media_type="application/json")

    @api.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            return await ours(request, WrongMethod(request.method, (error.headers or {}).get("Allow", "another")))
        if path.startswith("/v2/models/"):
            said = f"no model {path.split('/')[3]!r} is deployed; GET /api/v1/models lists those there are"
            return await ours(request, UnknownModel(said))
        return await ours(request, NotFound(f"no path {path!r}; GET /openapi.json lists those there are"))
