"""Layers: what every request passes before its handler, composed in this one place for HTTP and for gRPC.

Request walk: edge -> [layers.py: errors, authentication, limits] -> routes.py (a replica), control.app or control.grpc_gateway
Each layer is a file that can be left out or replaced by itself.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from deployments.errors import ClientError
from deployments.server.asgi import App
from deployments.server.authentication import Authentication, Caller, authenticate
from deployments.server.error_responses import INTERNAL_ERROR_MESSAGE, ErrorResponses
from deployments.server.request_limits import RequestLimits
from deployments.settings import Limits

logger = logging.getLogger("ray.serve")

GRPC_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""HTTP status to gRPC status; every other 4xx is INVALID_ARGUMENT."""

GrpcMethod = Callable[[bytes, Any], Awaitable[bytes]]
"""A unary method: a serialized request and grpc.aio's context to a serialized response."""


def compose_http(routes: App, limits: Limits, callers: Mapping[str, Caller]) -> App:
    """Put the layers around routes, outermost first: errors, authentication, limits."""
    return ErrorResponses(Authentication(RequestLimits(routes, limits), callers))


def compose_grpc(method: GrpcMethod, callers: Mapping[str, Caller], *, name: str, is_open: bool) -> GrpcMethod:
    """Put the same layers around a gRPC method: errors and authentication; the server limits concurrent calls.

    Args:
        method: is called only for callers that hold a key, unless it is open.
        callers: by the digest of their key.
        name: for the log.
        is_open: whether a health check, which needs no key.
    """

    async def call(raw: bytes, context: Any) -> bytes:
        try:
            if not is_open:
                authenticate(callers, _authorization(context))
            return await method(raw, context)
        except ClientError as error:
            code, message = GRPC_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), error.message
        except Exception:
            logger.exception("call failed: %s", name)
            code, message = grpc.StatusCode.INTERNAL, INTERNAL_ERROR_MESSAGE
        await context.abort(code, message)
        raise AssertionError("abort always raises")

    return call


def _authorization(context: Any) -> bytes:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value.encode() if isinstance(value, str) else value
    return b""
