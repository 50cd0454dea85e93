"""gRPC gateway: one port for all models, since gRPC clients name a model only inside their messages.

Request walk: [grpc_gateway.py] -> deployments.protocols.grpc.translate -> deployments.server.handle_client
Ray Serve 2.60's own gRPC ingress cannot serve this. It routes a call by the metadata `application`, which the protocol
does not have, and without it responds NOT_FOUND as soon as there are two applications (ray/serve/_private: `frontend
grpc_frontend` in haproxy_templates.py, `gRPCProxy` in proxy.py). And it listens on every interface (`start_grpc_server`
in grpc_util.py). So calls come here, and go on through the models' handles.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import grpc
from ray import serve

from deployments.control.status import DeploymentStatus
from deployments.errors import DeadlineExceeded, Unavailable
from deployments.protocols.grpc import messages, translate
from deployments.protocols.oip.codec import EXTENSIONS
from deployments.ray_internals import bind_replica_port
from deployments.server.authentication import Caller
from deployments.server.handle_client import HandleClient
from deployments.server.middleware import GrpcMethod, compose_grpc
from deployments.settings import Limits, ServingSettings

DRAIN_S = 5.0

Method = Callable[[Any, Any], Awaitable[Any]]
"""A method of the service: request message and grpc.aio's context to response message."""


class GrpcService:
    """The six methods of the Open Inference Protocol."""

    def __init__(
        self, status: DeploymentStatus, client: HandleClient, callers: Mapping[str, Caller], limits: Limits
    ) -> None:
        self._status, self._client, self._callers, self._limits = status, client, callers, limits

    def build_handler(self) -> Any:
        """Build the handler for a grpc.aio server; it parses messages of authenticated callers only."""
        methods: dict[str, tuple[Any, Method, bool]] = {
            "ServerLive": (messages.ServerLiveRequest, self._server_live, True),
            "ServerReady": (messages.ServerReadyRequest, self._server_ready, True),
            "ServerMetadata": (messages.ServerMetadataRequest, self._server_metadata, False),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready, False),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata, False),
            "ModelInfer": (messages.ModelInferRequest, self._model_infer, False),
        }
        return grpc.method_handlers_generic_handler(
            messages.SERVICE_NAME,
            {name: grpc.unary_unary_rpc_method_handler(self._wrap_method(*method)) for name, method in methods.items()},
        )

    def _wrap_method(self, message_class: Any, method: Method, is_public: bool) -> GrpcMethod:
        async def call(body: bytes, context: Any) -> bytes:
            request = messages.parse_message(message_class, body)
            response: bytes = (await method(request, context)).SerializeToString()
            return response

        return compose_grpc(call, self._callers, name=message_class.DESCRIPTOR.name, is_public=is_public)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=await asyncio.to_thread(self._status.is_ready))

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(name="shoal", version=version("shoal"), extensions=EXTENSIONS)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        try:
            await self._client.metadata(request.name, request.version, self._get_timeout_s(context))
        except (Unavailable, DeadlineExceeded):
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        metadata = await self._client.metadata(request.name, request.version, self._get_timeout_s(context))
        return translate.metadata_from_rest(metadata)

    async def _model_infer(self, request: Any, context: Any) -> Any:
        body, header_length = translate.request_to_rest(request)
        response, response_header_length = await self._client.infer(
            request.model_name, request.model_version, body, header_length, self._get_timeout_s(context)
        )
        assert response_header_length is not None, "a binary request gets a binary response"
        return translate.response_from_rest(
            response, response_header_length, use_contents=not request.raw_input_contents
        )

    def _get_timeout_s(self, context: Any) -> float:
        """Seconds until the caller's deadline or the service's limit, whichever is earlier."""
        remaining_s = context.time_remaining()
        return min(self._limits.request_timeout_s, math.inf if remaining_s is None else remaining_s)


@serve.deployment(name="grpc")
class Gateway:
    """The gRPC server as a Serve deployment; it listens before Serve calls it ready, and drains before it stops."""

    async def __init__(self, keys: dict[str, str], host: str, port: int) -> None:  # type: ignore[misc]
        bind_replica_port(host)
        settings = ServingSettings()
        limits, status = settings.limits, DeploymentStatus(settings)
        callers = {digest: Caller(name) for digest, name in keys.items()}
        service = GrpcService(status, HandleClient(status.list_deployed), callers, limits)
        options = [("grpc.max_receive_message_length", limits.max_body_bytes), ("grpc.max_send_message_length", -1)]
        # Concurrent calls over this limit get RESOURCE_EXHAUSTED.
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.max_queue)
        self._server.add_generic_rpc_handlers((service.build_handler(),))
        # The next version of this deployment binds the same port (SO_REUSEPORT) before this one releases it.
        self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()

    async def __del__(self) -> None:
        await self._server.stop(DRAIN_S)
