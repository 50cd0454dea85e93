"""Edge check of a gRPC server: as edge_check.py, before a call's message is taken."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from deployments.access.caller import parse_caller
from deployments.errors import NotFromEdge, Unauthenticated
from deployments.server.edge_check import CALLER_HEADER, SECRET_HEADER, check_edge_secret


class GrpcEdgeCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls that no edge sent."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], call_details: Any) -> Any:
        """Called by grpc.aio for each call, with its metadata."""
        metadata = dict(call_details.invocation_metadata or ())
        try:
            value = metadata.get(SECRET_HEADER.decode(), "")
            check_edge_secret(value.encode() if isinstance(value, str) else value, self._secret)
            parse_caller(str(metadata.get(CALLER_HEADER.decode(), "")).encode()).check_expiry()
        except NotFromEdge as error:
            return _build_refusal(grpc.StatusCode.PERMISSION_DENIED, error.message)
        except Unauthenticated as error:
            return _build_refusal(grpc.StatusCode.UNAUTHENTICATED, error.message)
        return await continuation(call_details)


def _build_refusal(code: grpc.StatusCode, message: str) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(code, message)

    # Fits every kind of call: it ends before a message is read.
    return grpc.stream_stream_rpc_method_handler(refuse)
