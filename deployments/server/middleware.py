"""Middleware: what every request passes before its handler, composed here for HTTP and for gRPC, nowhere else.

Request walk: http_server.py -> asgi.py -> [middleware.py]
    -> error_responses.py -> edge_check.py -> request_limits.py -> routes.py
Each is a file that can be left out or replaced by itself.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from deployments.errors import ClientError
from deployments.observability.observation import Observation
from deployments.server.asgi import App
from deployments.server.edge_check import EdgeCheck
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


def compose_http(routes: App, limits: Limits, secret: str, observation: Observation | None = None) -> App:
    """Put the layers around routes, outermost first: the trace if it is on, errors, the edge's secret, limits."""
    observation = observation or Observation()
    app: App = ErrorResponses(EdgeCheck(RequestLimits(routes, limits), secret), observation.statistics.errors)
    return observation.tracer.trace_app(app) if observation.tracer else app


def compose_grpc(method: GrpcMethod, *, name: str) -> GrpcMethod:
    """Put the error layer around a gRPC method; grpc_edge_check.py and the server's limit of calls are the others."""

    async def call(body: bytes, context: Any) -> bytes:
        try:
            return await method(body, context)
        except Exception as error:
            code, message = describe_grpc_error(error, name)
        await context.abort(code, message)
        raise AssertionError("abort always raises")

    return call


def describe_grpc_error(error: Exception, name: str) -> tuple[grpc.StatusCode, str]:
    """The status and message of an error; those of the service are logged, and hidden."""
    if isinstance(error, ClientError):
        return GRPC_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), error.message
    logger.error("call failed: %s", name, exc_info=error)
    return grpc.StatusCode.INTERNAL, INTERNAL_ERROR_MESSAGE
