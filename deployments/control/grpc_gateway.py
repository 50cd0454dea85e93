"""The gRPC server: one port for all models, since gRPC's clients name a model inside their message alone.

Request walk: socket -> [gateway.py: caller, deadline] -> translate.py -> replica.py -> codec -> batching.py
Ray Serve 2.60's own gRPC ingress cannot serve this. It sends a call to an application by the metadata `application`,
which the protocol does not have, and without it answers NOT_FOUND as soon as there are two (ray/serve/_private:
`frontend grpc_frontend` in haproxy_templates.py, `gRPCProxy` in proxy.py). And it listens on every interface
(`start_grpc_server` in grpc_util.py). So calls come here, and go on through the models' handles.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from deployments.control.status import DeploymentStatus
from deployments.errors import ClientError, DeadlineExceeded, Unavailable, UnknownModel
from deployments.protocols.grpc import messages, translate
from deployments.protocols.oip.codec import EXTENSIONS
from deployments.server.authentication import Caller
from deployments.server.bind_host import bind_replica_port
from deployments.server.layers import GrpcMethod, compose_grpc
from deployments.settings import Limits, ServingSettings

# A model may be undeployed: whether it is there still is looked up as often as this, by whichever request comes then.
LOOKUP_INTERVAL_S = 1.0
DRAIN_S = 5.0

Method = Callable[[Any, Any], Awaitable[Any]]


class ReplicaError(ClientError):
    """What a replica refused; status, code and message are the replica's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class GrpcService:
    """The protocol's six methods."""

    def __init__(self, standing: DeploymentStatus, callers: Mapping[str, Caller], limits: Limits) -> None:
        self._standing, self._callers, self._limits = standing, callers, limits
        self._handles: dict[str, tuple[float, Any]] = {}

    def handlers(self) -> Any:
        """What a grpc.aio server takes. Messages are read here, after the caller is known, and not by the server."""
        methods: dict[str, tuple[Any, Method, bool]] = {
            "ServerLive": (messages.ServerLiveRequest, self._server_live, True),
            "ServerReady": (messages.ServerReadyRequest, self._server_ready, True),
            "ServerMetadata": (messages.ServerMetadataRequest, self._server_metadata, False),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready, False),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata, False),
            "ModelInfer": (messages.ModelInferRequest, self._model_infer, False),
        }
        return grpc.method_handlers_generic_handler(
            messages.SERVICE,
            {name: grpc.unary_unary_rpc_method_handler(self._unary(*method)) for name, method in methods.items()},
        )

    def _unary(self, kind: Any, method: Method, is_open: bool) -> GrpcMethod:
        async def call(raw: bytes, context: Any) -> bytes:
            response: bytes = (await method(messages.parse_message(kind, raw), context)).SerializeToString()
            return response

        return compose_grpc(call, self._callers, name=kind.DESCRIPTOR.name, is_open=is_open)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        statuses = await asyncio.to_thread(self._standing.fetch_statuses)
        return messages.ServerReadyResponse(ready=all(status == "RUNNING" for status in statuses.values()))

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(name="shoal", version=version("shoal"), extensions=EXTENSIONS)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        try:
            await self._call_replica(request.name, context, "metadata", request.version)
        except (Unavailable, DeadlineExceeded):
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        said, _ = await self._call_replica(request.name, context, "metadata", request.version)
        return translate.to_metadata_response(said)

    async def _model_infer(self, request: Any, context: Any) -> Any:
        body, length = translate.to_rest(request)
        answer, length = await self._call_replica(
            request.model_name, context, "infer", request.model_version, body, length
        )
        return translate.from_rest(answer, length, as_contents=not request.raw_input_contents)

    async def _call_replica(self, name: str, context: Any, method: str, *arguments: Any) -> tuple[bytes, int]:
        """Call a method of a model's replica, for as long as the caller waits and the limits allow.

        Raises:
            ClientError: the replica's, or one of what stands before it.
        """
        handle = await self._handle(name)
        remaining_s = context.time_remaining()
        timeout_s = min(self._limits.request_timeout_s, math.inf if remaining_s is None else remaining_s)
        response = getattr(handle, method).remote(*arguments)
        try:
            async with asyncio.timeout(timeout_s):
                status, code, answer, length = await response
        except TimeoutError:
            response.cancel()
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s; try again, or send less") from None
        except asyncio.CancelledError:
            response.cancel()  # the caller has gone
            raise
        except (RayServeException, RayActorError):
            raise Unavailable(f"no replica of {name} answers now; try again shortly") from None
        if status != 200:
            raise ReplicaError(status, code, answer.decode())
        return answer, length

    async def _handle(self, name: str) -> Any:
        """The handle of a deployed model; raises UnknownModel where there is none."""
        looked_up_s, handle = self._handles.get(name, (-math.inf, None))
        if time.monotonic() - looked_up_s > LOOKUP_INTERVAL_S:
            handle = await asyncio.to_thread(self._look_up, name, handle)
            self._handles[name] = time.monotonic(), handle
        return handle

    def _look_up(self, name: str, known: Any) -> Any:
        deployed = self._standing.list_deployed()
        if name not in deployed:
            self._handles.pop(name, None)
            raise UnknownModel(f"no model {name!r} is deployed; deployed: {', '.join(deployed) or 'none'}")
        try:
            return serve.get_app_handle(name)
        except RayServeException:
            # While a new version is being built Serve does not know the application, though the old one serves on.
            if known is not None:
                return known
            raise Unavailable(f"no replica of {name} answers now; try again shortly") from None


@serve.deployment(name="grpc")
class Gateway:
    """The server as a Serve deployment; it listens before Serve calls it ready, and drains before it goes."""

    async def __init__(self, keys: dict[str, str], host: str, port: int) -> None:  # type: ignore[misc]
        bind_replica_port(host)
        settings = ServingSettings()
        limits = settings.limits
        callers = {digest: Caller(name) for digest, name in keys.items()}
        service = GrpcService(DeploymentStatus(settings), callers, limits)
        options = [("grpc.max_receive_message_length", limits.max_body_bytes), ("grpc.max_send_message_length", -1)]
        # More calls at a time get RESOURCE_EXHAUSTED.
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.max_queue)
        self._server.add_generic_rpc_handlers((service.handlers(),))
        # The next version of this deployment binds the same port (SO_REUSEPORT) before this one lets go of it.
        self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()

    async def __del__(self) -> None:
        await self._server.stop(DRAIN_S)
