"""The control application at `/`: health, the catalogue, the stable address of each model, one OpenAPI for all.

Not on the hot path: a call to /v2/models/NAME never comes here, unless no such model is deployed.
"""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from deployments import openapi
from deployments.catalogue import Catalogue
from deployments.confine import confine
from deployments.errors import ClientError, NotFound, Unavailable, UnknownModel, WrongMethod
from deployments.layers.asgi import App
from deployments.layers.callers import Caller, Callers
from deployments.layers.errors import Errors, error_body
from deployments.layers.limits import Bounded, read_body, refuse_encoding
from deployments.layers.presence import while_present
from deployments.settings import ServingSettings
from training.errors import Mistake


@serve.deployment(name="control")
@serve.ingress()
class Control:
    """The control application as a Serve deployment."""

    def __init__(self, keys: dict[str, str], host: str) -> None:
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
        return {"name": "shoal", "version": openapi.VERSION, "extensions": []}

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

        async def answer() -> tuple[int, bytes]:
            handle: DeploymentHandle[Any] = await run_in_threadpool(serve.get_app_handle, name)
            status, body = await handle.predict.remote(raw, kind, request.headers.get("x-request-id"))
            return status, body

        try:
            status, body = await while_present(request.receive, answer())
        except (RayServeException, RayActorError):
            raise Unavailable(f"no replica of {name} answers now; try again shortly") from None
        return Response(body, status, media_type="application/json")

    return api


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
