"""The control application at `/`: health, the catalog, /api/v1/models/NAME/predict, one OpenAPI document for all.

Request walk: deployments.server.middleware -> [app.py] -> deployments.server.handle_client
Not on the hot path: requests to /v2/models/NAME come here only where no such model is deployed, or none of its replicas
is up; then they wait for one, and reach it by a handle. That wakes a model that sleeps: Serve starts a replica where
calls wait at a handle.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from ray import serve
from ray.exceptions import RayError
from starlette.exceptions import HTTPException

from deployments.access.api_keys import ADMIN_KEY_FILE
from deployments.access.authorization import Authorization
from deployments.access.caller import Caller, build_admin
from deployments.access.scopes import Action
from deployments.control import openapi
from deployments.control.abandoned import finish_abandoned_changes
from deployments.control.audit import add_audit_route
from deployments.control.catalog import Catalog
from deployments.control.dependencies import CallerOf
from deployments.control.keys import add_key_routes
from deployments.control.operations import STABLE_PATH, VERSIONED_OPERATIONS, VERSIONED_PATH
from deployments.control.rollouts import add_rollout_routes
from deployments.control.sleeping import SleepingModels
from deployments.control.summary import DeploymentSummary, ReplicaWindows
from deployments.control.tenants import add_tenant_routes
from deployments.control.usage import add_usage_routes
from deployments.edge.directory import get_directory
from deployments.edge.replica_server import ReplicaServer
from deployments.edge.splits import CallOrigin, Splits
from deployments.edge.state import CONTROL, Route
from deployments.errors import (
    CallError,
    DeadlineExceeded,
    MethodNotAllowed,
    NotFound,
    Unavailable,
    UnknownModel,
    Unprocessable,
)
from deployments.observability.observation import Observation
from deployments.observability.tracing import build_tracer
from deployments.protocols.oip.binary import HEADER_LENGTH, parse_header_length
from deployments.protocols.oip.codec import EXTENSIONS
from deployments.ray_internals import bind_replica_port
from deployments.server.asgi import REQUEST, AsgiHandler, Receive, Scope, Send
from deployments.server.cross_site import CrossSiteCheck
from deployments.server.error_responses import encode_error_for
from deployments.server.handle_client import HandleClient
from deployments.server.middleware import compose_http
from deployments.server.request import Request as ServerRequest
from deployments.server.request_limits import reject_encoding
from deployments.server.routes import reject_content_type
from deployments.server.scheduling import Scheduling
from deployments.server.served import OnServed
from deployments.server.sse import MEDIA_TYPE, Event, send_events, wants_stream
from deployments.settings import Limits, ServingSettings
from training.errors import UserError
from training.schema import StrictModel

MAX_DIRECTORY_S = 2.0


@serve.deployment(name="control")
class Control:
    """The control application as a Serve deployment."""

    async def __init__(self, host: str, url: str) -> None:  # type: ignore[misc]
        bind_replica_port(host)
        settings = ServingSettings()
        catalog = Catalog(settings)
        replica = serve.get_replica_context().replica_id.unique_id
        tracer = build_tracer(settings.tracing, CONTROL, 0, replica)
        inject_trace = tracer.inject_headers if tracer else None
        splits = Splits()
        client = HandleClient(catalog.status.list_deployed, catalog.status.may_sleep, inject_trace, splits)
        api = build_api(catalog, client, settings, url)
        limits = settings.limits
        self._task = asyncio.get_running_loop().create_task(finish_abandoned_changes(catalog.status.store))
        cross_site = CrossSiteCheck(settings.edge.cors_origins.split())
        self._server = await ReplicaServer.start(
            lambda secret, observation: compose_http(
                AsgiHandler(api), limits, secret, Authorization(), observation, (cross_site,)
            ),
            host,
            Route(CONTROL, limits.request_timeout_s),
            splits=splits,
            observation=Observation(tracer=tracer),
        )

    async def __del__(self) -> None:
        self._task.cancel()
        await self._server.stop()


async def fetch_windows() -> ReplicaWindows | None:
    """What each replica did in the last seconds; None where the directory does not answer."""
    try:
        async with asyncio.timeout(MAX_DIRECTORY_S):
            windows: ReplicaWindows = await get_directory().list_windows.remote()
            return windows
    except (RayError, ValueError, TimeoutError):
        return None


def build_api(
    catalog: Catalog,
    client: HandleClient,
    settings: ServingSettings,
    url: str,
    fetch_windows: Callable[[], Awaitable[ReplicaWindows | None]] = fetch_windows,
) -> FastAPI:
    """Build the FastAPI application, without layers.

    Args:
        catalog: what is published and deployed.
        client: calls deployed models.
        settings: the limits, and SHOAL_HOME.
        url: of the service, for the documentation.
        fetch_windows: asks the replicas' directory what each did.
    """
    # The pages' scripts are served from here: a cluster need not reach the internet.
    api = FastAPIOffline(
        title="Shoal",
        version=openapi.VERSION,
        generate_unique_id_function=lambda route: route.name,
        # Behind the edge's TLS a redirect would name http: the next request's key would be sent in plain text.
        redirect_slashes=False,
    )
    key_file = settings.home / ADMIN_KEY_FILE
    _add_document_route(api, lambda caller: openapi.build_openapi(api, catalog, url, key_file, caller))
    _add_error_handlers(api)
    _add_server_routes(api, catalog)
    _add_catalog_routes(api, catalog)
    add_key_routes(api, settings)
    add_rollout_routes(api, settings)
    add_audit_route(api, settings)
    add_usage_routes(api, settings)
    add_tenant_routes(api, settings)
    _add_deployment_routes(api, catalog, fetch_windows)
    _add_predict_route(api, client, settings)
    _add_model_routes(api, client, catalog, SleepingModels(catalog.status, catalog.load_content), settings)
    return api


def _add_document_route(api: FastAPI, build: Callable[[Caller], dict[str, Any]]) -> None:
    """Answer for the document in the place of FastAPI's own route, which does not know who asks."""
    api.router.routes = [route for route in api.router.routes if getattr(route, "path", "") != api.openapi_url]
    api.openapi = lambda: build(build_admin())  # type: ignore[method-assign]

    @api.get(api.openapi_url or "", include_in_schema=False)
    def document(caller: CallerOf) -> dict[str, Any]:
        return build(caller)


def _add_server_routes(api: FastAPI, catalog: Catalog) -> None:
    @api.get("/v2/health/live", tags=[openapi.SERVER_TAG], summary="Check liveness")
    async def live() -> dict[str, bool]:
        """Whether the service runs."""
        return {"live": True}

    @api.get("/v2/health/ready", tags=[openapi.SERVER_TAG], summary="Check readiness")
    def ready() -> JSONResponse:
        """Whether every deployed model answers, be it with the version before while another one is rolled out."""
        is_ready = catalog.status.is_ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @api.get("/v2/health/started", tags=[openapi.SERVER_TAG], summary="Check start-up")
    def started() -> JSONResponse:
        """Whether what was deployed when the cluster came up has been brought up, or has failed; true from then on."""
        has_started = catalog.status.has_started()
        return JSONResponse({"started": has_started}, 200 if has_started else 503)

    @api.get("/v2", tags=[openapi.SERVER_TAG], summary="Get metadata of the server")
    async def server_metadata() -> dict[str, Any]:
        """Name, version and protocol extensions, by the Open Inference Protocol."""
        return {"name": "shoal", "version": openapi.VERSION, "extensions": list(EXTENSIONS)}


def _add_catalog_routes(api: FastAPI, catalog: Catalog) -> None:
    @api.get("/api/v1/models", tags=[openapi.CATALOG_TAG], summary="List models")
    def list_models(caller: CallerOf) -> dict[str, Any]:
        """The caller's models and pipelines: task, summary, versions, aliases, status, deployed version and variant."""
        return {"models": [each for each in catalog.list_models() if caller.may(Action.READ, each["name"])]}

    @api.get("/api/v1/models/{name}", tags=[openapi.CATALOG_TAG], summary="Get a model")
    def get_model(name: str) -> dict[str, Any]:
        """One model's line of the list, with its versions, and manifest and example request of the newest."""
        try:
            return catalog.describe_model(name)
        except UserError as error:
            raise UnknownModel(str(error)) from None

    @api.get("/api/v1/models/{name}/profiles", tags=[openapi.CATALOG_TAG], summary="Get a model's profiles")
    def get_profiles(name: str) -> dict[str, Any]:
        """A deployed model's latency goal, and how long forward passes of each number of rows last, by processor."""
        return catalog.describe_profiles(name)


class DeploymentList(StrictModel):
    """Every deployment."""

    deployments: list[DeploymentSummary]


def _add_deployment_routes(
    api: FastAPI, catalog: Catalog, fetch_windows: Callable[[], Awaitable[ReplicaWindows | None]]
) -> None:
    @api.get("/api/v1/deployments", tags=[openapi.CATALOG_TAG], summary="List deployments")
    async def list_deployments(caller: CallerOf) -> DeploymentList:
        """How each of the caller's models and pipelines is doing: revision, versions that answer, replicas, traffic."""
        windows = await fetch_windows()
        summaries = await asyncio.to_thread(catalog.status.summarize, windows)
        return DeploymentList(deployments=[each for each in summaries if caller.may(Action.READ, each.name)])


def _add_predict_route(api: FastAPI, client: HandleClient, settings: ServingSettings) -> None:
    @api.post(STABLE_PATH, tags=[openapi.STABLE_TAG], summary="Predict")
    async def predict(name: str, request: Request) -> Response:
        """The model's own `predict`, at an address that stays the same however the model is served."""
        return await _predict(client, name, request, _get_scheduling(request, settings.limits))


def _add_model_routes(
    api: FastAPI, client: HandleClient, catalog: Catalog, sleeping: SleepingModels, settings: ServingSettings
) -> None:
    """Add the paths of a model, for requests that find none of its replicas up.

    What sleeps is woken by a request that computes something, not by one that asks what it is.
    """
    limits = settings.limits

    async def infer(name: str, request: Request, version: str = "") -> Response:
        scheduling = _get_scheduling(request, limits)
        reject_content_type(get_server_request(request))
        body = _read_body(request)
        header_length = parse_header_length(request.headers.get(HEADER_LENGTH.decode(), "").encode(), len(body))
        headers: dict[str, str] = {}
        timeout_s, priority, origin = scheduling.remaining_s(), scheduling.priority, _get_origin(request)
        response, length = await client.infer(
            name, version, body, header_length, timeout_s, priority, origin, _collect_headers(headers)
        )
        if length is None:
            return Response(response, headers=headers, media_type="application/json")
        headers[HEADER_LENGTH.decode()] = str(length)
        return Response(response, headers=headers, media_type="application/octet-stream")

    async def predict(name: str, request: Request, version: str = "") -> Response:
        return await _predict(client, name, request, _get_scheduling(request, limits), version)

    async def metadata(name: str, version: str = "") -> Response:
        asleep = await asyncio.to_thread(sleeping.describe, name, version)
        response = asleep.metadata if asleep else await client.metadata(name, version, limits.request_timeout_s)
        return Response(response, media_type="application/json")

    async def ready(name: str, version: str = "") -> Response:
        # What sleeps is ready: it may be called.
        if not await asyncio.to_thread(sleeping.describe, name, version):
            deployed = await asyncio.to_thread(catalog.status.list_deployed)
            if name in deployed and not await asyncio.to_thread(catalog.status.is_model_ready, name):
                # A probe is answered at once; a request waits for a replica.
                raise Unavailable(f"no replica of {name} is available; see `shoal status`")
            await client.metadata(name, version, limits.request_timeout_s)
        return JSONResponse({"name": name, "ready": True})

    async def example(name: str, version: str = "") -> Response:
        if asleep := await asyncio.to_thread(sleeping.describe, name, version):
            return JSONResponse(asleep.example)
        await client.metadata(name, version, limits.request_timeout_s)
        raise Unavailable(f"no replica of {name} was up; try again")

    handlers: dict[str, Callable[..., Any]] = {
        "/infer": infer,
        "/predict": predict,
        "": metadata,
        "/ready": ready,
        "/example": example,
    }
    _add_versioned_routes(api, handlers)


def _add_versioned_routes(api: FastAPI, handlers: dict[str, Callable[..., Any]]) -> None:
    """Add a model's handlers, by the end of their paths, at its own address and at those of its versions."""
    for end, (method, summary) in VERSIONED_OPERATIONS.items():
        api.add_api_route(
            VERSIONED_PATH + end,
            handlers[end],
            methods=[method],
            tags=[openapi.VERSIONS_TAG],
            summary=summary,
            description=f"As `/v2/models/NAME{end}`, of the deployed version only.",
            operation_id=f"version-{end.removeprefix('/') or 'metadata'}",
            response_model=None,
        )
        path = VERSIONED_PATH.replace("/versions/{version}", "")
        api.add_api_route(path + end, handlers[end], methods=[method], include_in_schema=False, response_model=None)


def get_server_request(request: Request) -> ServerRequest:
    """The server's own request, of which FastAPI's was made."""
    server_request: ServerRequest = request.scope[REQUEST]
    return server_request


def _read_body(request: Request) -> bytes:
    server_request = get_server_request(request)
    reject_encoding(server_request)
    return server_request.body


def _get_origin(request: Request) -> CallOrigin:
    server_request = get_server_request(request)
    fields = (*server_request.headers.items(), *server_request.duplicates)
    return CallOrigin.of_fields(server_request.caller.name, fields)


def _get_scheduling(request: Request, limits: Limits) -> Scheduling:
    timeout_s = limits.request_timeout_s
    scheduling = get_server_request(request).scheduling or Scheduling()
    if scheduling.remaining_s() <= 0:
        raise DeadlineExceeded(
            f"no response within the request's timeout of {scheduling.timeout_s:g} s; set a longer one"
        )
    return Scheduling.after(min(scheduling.remaining_s(), timeout_s), scheduling.priority)


async def _predict(
    client: HandleClient, name: str, request: Request, scheduling: Scheduling, version: str = ""
) -> Response:
    body = _read_body(request)
    timeout_s, priority = scheduling.remaining_s(), scheduling.priority
    content_type, request_id = request.headers.get("content-type", ""), request.headers.get("x-request-id")
    arguments = name, body, request_id, timeout_s, priority, content_type
    origin = _get_origin(request)
    headers: dict[str, str] = {}
    options: dict[str, Any] = {"version": version, "origin": origin, "on_served": _collect_headers(headers)}
    if wants_stream(get_server_request(request)):
        return EventStreamResponse(client.stream(*arguments, **options), headers)
    response = await client.predict(*arguments, **options)
    return Response(response, headers=headers, media_type="application/json")


def _collect_headers(headers: dict[str, str]) -> OnServed:
    """Add the headers that say what has computed a response."""
    return lambda served: headers.update(served.build_headers())


class EventStreamResponse(Response):
    """Server-sent events as a Starlette response."""

    media_type = MEDIA_TYPE.decode()

    def __init__(self, events: AsyncGenerator[Event], served_headers: dict[str, str]) -> None:
        super().__init__()
        self._events, self._served_headers = events, served_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send_events(scope[REQUEST], self._events, self._served_headers)


def _add_error_handlers(api: FastAPI) -> None:
    """Give FastAPI's own errors the form of ours."""

    @api.exception_handler(CallError)
    async def encode_call_error(request: Request, error: CallError) -> Response:
        body = encode_error_for(get_server_request(request), error.code, error.message)
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(body, error.status, headers, media_type="application/json")

    @api.exception_handler(UserError)
    async def encode_user_error(request: Request, error: UserError) -> Response:
        return await encode_call_error(request, Unprocessable(str(error)))

    @api.exception_handler(RequestValidationError)
    async def encode_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"] if each != "body") or "the body"
        return await encode_call_error(request, Unprocessable(f"{place}: {first['msg']}"))

    @api.exception_handler(HTTPException)
    async def encode_http_exception(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another")
            return await encode_call_error(request, MethodNotAllowed(request.method, allowed))
        return await encode_call_error(request, NotFound(f"no path {path!r}; GET /openapi.json lists the paths"))
