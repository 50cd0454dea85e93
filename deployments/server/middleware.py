"""Middleware: what every request passes before its handler, composed here for HTTP and for gRPC, nowhere else.

Request walk: http_server.py -> http_exchange.py -> request.py -> [middleware.py]
    -> trace_layer.py -> edge_check.py -> deployments.access.usage.request_usage -> deployments.access.authorization
    -> request_limits.py -> limit_check.py or cross_site.py -> routes.py -> error_responses.py
Each is a file that can be left out or replaced by itself.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from deployments.access.authorization import Authorization
from deployments.access.limits.accounts import Accounts
from deployments.access.usage.request_usage import Metering, UsageSink
from deployments.errors import RATE_LIMIT, RATE_LIMIT_POLICY, CallError, ClientError
from deployments.observability.observation import Observation
from deployments.observability.private_errors import describe_error
from deployments.server.edge_check import EdgeCheck
from deployments.server.error_responses import INTERNAL_ERROR_MESSAGE, encode_error_response
from deployments.server.limit_check import LimitCheck
from deployments.server.request import Handler, Layer, Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.server.trace_layer import TraceLayer, activate_traces
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

# No call waits so long for its next attempt.
MAX_PUSHBACK_S = 3600

GrpcMethod = Callable[[bytes, Any], Awaitable[bytes]]
"""A unary method: from a serialized request and grpc.aio's context to a serialized response."""


class HttpApp:
    """A handler with its layers: what a server serves."""

    def __init__(
        self, handler: Handler, layers: tuple[Layer, ...], max_body_bytes: int, errors: Counter[str] | None = None
    ) -> None:
        """Put an application together.

        Args:
            handler: answers what the layers admit.
            layers: in the order in which a request passes them.
            max_body_bytes: of a request.
            errors: counts of the errors, by their code.
        """
        self.handler, self.layers, self.max_body_bytes = handler, layers, max_body_bytes
        self._errors = Counter() if errors is None else errors

    def encode_error(self, request: Request, error: Exception) -> Response:
        """Encode what a layer or the handler has raised."""
        self._errors[error.code if isinstance(error, ClientError) else CallError.code] += 1
        return encode_error_response(request, error)


def compose_http(
    handler: Handler,
    limits: Limits,
    secret: str,
    authorization: Authorization,
    observation: Observation | None = None,
    further_layers: tuple[Layer, ...] = (),
    usage: UsageSink | None = None,
    accounts: Accounts | None = None,
) -> HttpApp:
    """Put the layers before a handler, in the order in which a request passes them.

    Trace (without a tracer there is none), edge's secret, metering (where something takes the usage), the key's scopes,
    limits of the replica, limits of the caller (where the handler computes), and further ones: of the control
    application, whose routes change things, the check of cross_site.py.
    """
    observation = observation or Observation()
    metering = () if usage is None else (Metering(usage),)
    layers: tuple[Layer, ...] = (
        EdgeCheck(secret),
        *metering,
        authorization,
        RequestLimits(limits),
        *further_layers,
    )
    if accounts:
        limit_check = LimitCheck(accounts)
        layers, handler = (*layers, limit_check), limit_check.wrap(handler)
    if observation.tracer:
        layers, handler = (TraceLayer(observation.tracer), *layers), activate_traces(handler)
    return HttpApp(handler, layers, limits.max_body_bytes, observation.statistics.errors)


def compose_grpc(method: GrpcMethod, *, name: str) -> GrpcMethod:
    """Put the error layer around a gRPC method; grpc_edge_check.py and the server's limit of calls are the others."""

    async def call(body: bytes, context: Any) -> bytes:
        try:
            return await method(body, context)
        except Exception as error:
            code, message = describe_grpc_error(error, name)
            trailers = build_grpc_trailers(error)
        await context.abort(code, message, trailers)
        raise AssertionError("abort always raises")

    return call


def build_grpc_trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    """Say when to come back, as gRPC's own retries read it, and how the caller's limit stands.

    https://github.com/grpc/proposal/blob/master/A6-client-retries.md
    """
    headers = dict(error.headers) if isinstance(error, ClientError) else {}
    fields = [(name.decode(), headers[name].decode()) for name in (RATE_LIMIT_POLICY, RATE_LIMIT) if name in headers]
    if retry_after := headers.get(b"retry-after"):
        # A negative one: do not.
        pushback_ms = 1000 * int(retry_after) if int(retry_after) <= MAX_PUSHBACK_S else -1
        fields += [("retry-after", retry_after.decode()), ("grpc-retry-pushback-ms", str(pushback_ms))]
    return tuple(fields)


def describe_grpc_error(error: Exception, name: str) -> tuple[grpc.StatusCode, str]:
    """The status and message of an error; those of the service are logged, and hidden."""
    if isinstance(error, ClientError):
        return GRPC_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), error.message
    logger.error("call failed: %s\n%s", name, describe_error(error))
    return grpc.StatusCode.INTERNAL, INTERNAL_ERROR_MESSAGE
