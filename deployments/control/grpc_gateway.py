"""gRPC gateway: one server for all models, since gRPC clients name a model only inside their messages.

Request walk: caller -> HAProxy -> [grpc_gateway.py] -> deployments.protocols.grpc.translate
    -> deployments.server.handle_client
Serve runs as many as their load needs; each joins the edge, which has checked the caller's key before a message comes.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from ray import serve

from deployments.access.caller import CURRENT_CALLER, NOBODY, Caller, parse_caller
from deployments.access.ended_keys import EndedKeys
from deployments.access.scopes import Action
from deployments.access.usage.call_event import CURRENT_EVENT, HEADER, CallEvent, parse_event
from deployments.control.sleeping import SleepingModels, load_bundle_content
from deployments.control.status import DeploymentStatus
from deployments.edge.membership import Membership, fetch_edge_secret, get_listen_host
from deployments.edge.node_tls import add_grpc_port
from deployments.edge.splits import CallOrigin, Splits
from deployments.edge.state import GRPC, Instructions, Member, Route
from deployments.errors import CallError, DeadlineExceeded, Forbidden, Unauthenticated, Unavailable
from deployments.observability.tracing import ReplicaTracer, build_tracer
from deployments.protocols.grpc import generate, messages, translate
from deployments.protocols.oip.codec import EXTENSIONS
from deployments.ray_internals import bind_replica_port
from deployments.scaling.load import ONGOING, Load
from deployments.server.edge_check import CALLER_HEADER
from deployments.server.grpc_edge_check import GrpcEdgeCheck
from deployments.server.handle_client import HandleClient
from deployments.server.middleware import GrpcMethod, compose_grpc, describe_grpc_error
from deployments.server.scheduling import INTERACTIVE, PRIORITY_HEADER, parse_priority
from deployments.server.served import Served
from deployments.settings import Limits, ServingSettings

DRAIN_S = 30.0
HEALTH_WATCH_INTERVAL_S = 1.0
HEALTH_SERVICE = "grpc.health.v1.Health"

Method = Callable[[Any, Any], Awaitable[Any]]
"""A method of the service: request message and grpc.aio's context to response message."""


class GrpcService:
    """The methods of the Open Inference Protocol, and the streaming one of Triton's extension."""

    def __init__(
        self,
        status: DeploymentStatus,
        client: HandleClient,
        limits: Limits,
        sleeping: SleepingModels,
        tracer: ReplicaTracer | None = None,
        ended_keys: EndedKeys | None = None,
    ) -> None:
        self._status, self._client, self._limits, self._sleeping = status, client, limits, sleeping
        self._tracer, self._ended_keys = tracer, ended_keys or EndedKeys()
        self.ongoing = 0

    def build_handler(self) -> Any:
        """Build the handler for a grpc.aio server."""
        methods: dict[str, tuple[Any, Method]] = {
            "ServerLive": (messages.ServerLiveRequest, self._server_live),
            "ServerReady": (messages.ServerReadyRequest, self._server_ready),
            "ServerMetadata": (messages.ServerMetadataRequest, self._server_metadata),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (messages.ModelInferRequest, self._model_infer),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._wrap_method(*method)) for name, method in methods.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._model_stream_infer, response_serializer=lambda message: message.SerializeToString()
        )
        return grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers)

    def _wrap_method(self, message_class: Any, method: Method) -> GrpcMethod:
        async def call(body: bytes, context: Any) -> bytes:
            self.ongoing += 1
            CURRENT_CALLER.set(_get_caller(context))
            CURRENT_EVENT.set(_get_event(context))
            try:
                request = messages.parse_message(message_class, body)
                response: bytes = (await method(request, context)).SerializeToString()
                return response
            finally:
                self.ongoing -= 1

        name = message_class.DESCRIPTOR.name
        return compose_grpc(self._tracer.trace_grpc(call, name) if self._tracer else call, name=name)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=await asyncio.to_thread(self._status.is_ready))

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(name="shoal", version=version("shoal"), extensions=EXTENSIONS)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        _get_caller(context).check(Action.READ, request.name)
        try:
            if not await asyncio.to_thread(self._sleeping.describe, request.name, request.version):
                await self._client.metadata(request.name, request.version, self._get_timeout_s(context))
        except (Unavailable, DeadlineExceeded):
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        _get_caller(context).check(Action.READ, request.name)
        if asleep := await asyncio.to_thread(self._sleeping.describe, request.name, request.version):
            return translate.metadata_from_rest(asleep.metadata)
        metadata = await self._client.metadata(request.name, request.version, self._get_timeout_s(context))
        return translate.metadata_from_rest(metadata)

    async def _model_infer(self, request: Any, context: Any, metadata: "_InitialMetadata | None" = None) -> Any:
        metadata = metadata or _InitialMetadata(context)
        _get_caller(context).check(Action.PREDICT, request.model_name)
        body, header_length = translate.request_to_rest(request)
        response, response_header_length = await self._client.infer(
            request.model_name,
            request.model_version,
            body,
            header_length,
            self._get_timeout_s(context),
            _get_priority(context),
            _get_origin(context),
            metadata.add,
        )
        await metadata.send()
        assert response_header_length is not None, "a binary request gets a binary response"
        return translate.response_from_rest(
            response, response_header_length, use_contents=not request.raw_input_contents
        )

    async def _model_stream_infer(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncGenerator[Any]:
        """Answer one request after the other; an error is a response, and the stream goes on."""
        self.ongoing += 1
        CURRENT_CALLER.set(_get_caller(context))
        metadata = _InitialMetadata(context)
        event, number = _get_event(context), 0
        try:
            async for body in bodies:
                number += 1
                CURRENT_EVENT.set(event.derive(str(number)))
                try:
                    self._ended_keys.check(_get_caller(context))
                except Unauthenticated as error:
                    await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
                try:
                    request = messages.parse_message(messages.ModelInferRequest, body)
                    async with contextlib.aclosing(self._answer(request, context, metadata)) as responses:
                        async for response in responses:
                            yield messages.ModelStreamInferResponse(infer_response=response)
                except Exception as error:
                    _, message = describe_grpc_error(error, "ModelStreamInfer")
                    metadata.is_sent = True  # with this response, whose model is none
                    yield messages.ModelStreamInferResponse(error_message=message)
        finally:
            self.ongoing -= 1

    async def _answer(self, request: Any, context: Any, metadata: "_InitialMetadata") -> AsyncGenerator[Any]:
        if not generate.is_generate_request(request):
            yield await self._model_infer(request, context, metadata)
            return
        name, version = request.model_name, request.model_version
        _get_caller(context).check(Action.PREDICT, name)
        body = generate.encode_predict_body(request)
        timeout_s, priority = self._get_timeout_s(context), _get_priority(context)
        options: dict[str, Any] = {"version": version, "origin": _get_origin(context), "on_served": metadata.add}
        stream = self._client.stream(name, body, request.id or None, timeout_s, priority, **options)
        async with contextlib.aclosing(stream) as events:
            async for event, data in events:
                await metadata.send()
                yield generate.build_response(request, request.model_version, event, data)

    def _get_timeout_s(self, context: Any) -> float:
        """Seconds until the caller's deadline or the service's limit, whichever is earlier."""
        remaining_s = context.time_remaining()
        return min(self._limits.request_timeout_s, math.inf if remaining_s is None else remaining_s)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """https://github.com/grpc/grpc/blob/master/doc/health-checking.md; a service is this one's, or a model's name."""

    def __init__(self, status: DeploymentStatus, client: HandleClient, ended_keys: EndedKeys | None = None) -> None:
        self._status, self._client, self._ended_keys = status, client, ended_keys or EndedKeys()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Whether the server, or for a caller with a key a model, takes calls."""
        if request.service not in ("", messages.SERVICE_NAME):
            await self._check_read(request.service, context)
        state = await self._fetch_state(request.service)
        if state == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(self, request: Any, context: Any) -> AsyncGenerator[Any]:  # noqa: N802 - gRPC's name
        """The same, again at each change."""
        last = None
        if request.service not in ("", messages.SERVICE_NAME):
            await self._check_read(request.service, context)
        while True:
            try:
                self._ended_keys.check(_get_caller(context))
            except Unauthenticated as error:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
            state = await self._fetch_state(request.service)
            if state != last:
                last = state
                yield health_pb2.HealthCheckResponse(status=state)
            await asyncio.sleep(HEALTH_WATCH_INTERVAL_S)

    async def _check_read(self, model: str, context: Any) -> None:
        caller = _get_caller(context)
        if caller is NOBODY:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the health of a model is told to callers with a key")
        try:
            caller.check(Action.READ, model)
        except Forbidden as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)

    async def _fetch_state(self, service: str) -> Any:
        states = health_pb2.HealthCheckResponse
        if service in ("", messages.SERVICE_NAME):
            return states.SERVING if await asyncio.to_thread(self._status.is_ready) else states.NOT_SERVING
        if service not in await asyncio.to_thread(self._status.list_deployed):
            return states.SERVICE_UNKNOWN
        try:
            if not await asyncio.to_thread(self._status.find_sleeping, service):
                await self._client.metadata(service, "", HEALTH_WATCH_INTERVAL_S)
        except CallError:
            return states.NOT_SERVING
        return states.SERVING


class _InitialMetadata:
    """What a call's first response is of, as its initial metadata; a stream's later ones say it in their messages."""

    def __init__(self, context: Any) -> None:
        self._context, self.is_sent = context, False
        self._served: Served | None = None

    def add(self, served: Served) -> None:
        """Keep what has computed the response."""
        self._served = served

    async def send(self) -> None:
        """Send it before the first response."""
        if self._served and not self.is_sent:
            self.is_sent = True
            headers = self._served.build_headers() | {"x-request-id": _get_origin(self._context).request_id}
            await self._context.send_initial_metadata(tuple((name, value) for name, value in headers.items() if value))


def _get_priority(context: Any) -> int:
    """The priority of a call's metadata; its deadline is gRPC's own."""
    value = dict(context.invocation_metadata() or ()).get(PRIORITY_HEADER.decode())
    return INTERACTIVE if value is None else parse_priority(str(value).encode())


def _get_caller(context: Any) -> Caller:
    """The caller that the edge has found by its key, or nobody."""
    return parse_caller(str(dict(context.invocation_metadata() or ()).get(CALLER_HEADER.decode(), "")).encode())


def _get_event(context: Any) -> CallEvent:
    """What a call is counted by."""
    metadata = {name: str(value).encode() for name, value in context.invocation_metadata() or ()}
    return parse_event(metadata.get(HEADER.decode(), b""))._replace(request_id=metadata.get("x-request-id", b""))


def _get_origin(context: Any) -> CallOrigin:
    """What a canary's share of the calls is chosen by."""
    metadata = {name: str(value) for name, value in context.invocation_metadata() or ()}
    return CallOrigin(_get_caller(context).name, metadata.get("x-request-id", ""), metadata)


def build_server(service: GrpcService, health: Health, limits: Limits, secret: str) -> Any:
    """Build the grpc.aio server, without a port."""
    options = [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        # Callers' pings end at the edge, which may send its own.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    # Concurrent calls over this limit get RESOURCE_EXHAUSTED.
    server = grpc.aio.server(
        interceptors=[GrpcEdgeCheck(secret)], options=options, maximum_concurrent_rpcs=limits.max_queue
    )
    server.add_generic_rpc_handlers((service.build_handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (messages.SERVICE_NAME, HEALTH_SERVICE, reflection.SERVICE_NAME)
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        messages.POOL.AddSerializedFile(file.serialized_pb)
    reflection.enable_server_reflection(names, server, pool=messages.POOL)
    return server


@serve.deployment(name="grpc")
class Gateway:
    """The gRPC server as a Serve deployment; it joins the edge once it listens, and drains before it stops."""

    async def __init__(self, host: str) -> None:  # type: ignore[misc]
        bind_replica_port(host)
        settings = ServingSettings()
        limits, status = settings.limits, DeploymentStatus(settings)
        member_id = serve.get_replica_context().replica_id.unique_id
        tracer = build_tracer(settings.tracing, GRPC, 0, member_id)
        splits = Splits()
        inject_trace = tracer.inject_headers if tracer else None
        client = HandleClient(status.list_deployed, status.may_sleep, inject_trace, splits)
        cache = settings.home / "cache"
        sleeping = SleepingModels(status, functools.partial(load_bundle_content, cache))
        ended_keys = EndedKeys()
        self._service = GrpcService(status, client, limits, sleeping, tracer, ended_keys)
        health = Health(status, client, ended_keys)
        self._server = build_server(self._service, health, limits, await fetch_edge_secret())
        address = get_listen_host(host)
        port = add_grpc_port(self._server, address, settings.edge)
        await self._server.start()
        route = Route(GRPC, limits.stream_timeout_s)
        member = Member(member_id, route, f"{address}:{port}", protocol="grpc")

        def follow(instructions: Instructions) -> None:
            splits.follow(instructions)
            ended_keys.follow(instructions.ended_keys)

        self._membership = Membership(member, follow=follow)
        await self._membership.join()

    def record_autoscaling_stats(self) -> Load:
        """Called by Serve, whose policy scales by it."""
        return {ONGOING: float(self._service.ongoing)}

    async def __del__(self) -> None:
        await self._membership.leave()
        await self._server.stop(DRAIN_S)
