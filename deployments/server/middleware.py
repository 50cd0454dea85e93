"""Middleware: what every request passes before its handler, composed here for HTTP and for gRPC, nowhere else.

Request walk: fast_path.py -> [middleware.py]
    -> error_responses.py -> authentication.py -> request_limits.py -> routes.py
Each is a file that can be left out or replaced by itself.
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
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""HTTP status to gRPC status; every other 4xx is INVALID_ARGUMENT."""

GrpcMethod = Callable[[bytes, Any], Awaitable[bytes]]
"""A unary method: from a serialized request and grpc.aio's context to a serialized response."""


def compose_http(routes: App, limits: Limits, callers: Mapping[str, Caller]) -> App:
    """Put the layers around routes, outermost first: errors, authentication, limits."""
    return ErrorResponses(Authentication(RequestLimits(routes, limits), callers))


def compose_grpc(method: GrpcMethod, callers: Mapping[str, Caller], *, name: str, is_public: bool) -> GrpcMethod:
    """Put the same layers around a gRPC method: errors and authentication; the server limits concurrent calls.

    Args:
        method: is called only for callers with a valid API key, unless it is public.
        callers: by the digest of their key.
        name: for the log.
        is_public: whether it needs no key, as a health check.
    """

    async def call(body: bytes, context: Any) -> bytes:
        try:
            if not is_public:
                authenticate(callers, _get_authorization(context), accept_basic=True)
            return await method(body, context)
        except ClientError as error:
            code, message = GRPC_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), error.message
        except Exception:
            logger.exception("call failed: %s", name)
            code, message = grpc.StatusCode.INTERNAL, INTERNAL_ERROR_MESSAGE
        await context.abort(code, message)
        raise AssertionError("abort always raises")

    return call


def _get_authorization(context: Any) -> bytes:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value.encode() if isinstance(value, str) else value
    return b""
