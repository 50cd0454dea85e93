"""Trace layer: the span of each request that the edge has sampled; only there where tracing is on.

Request walk: middleware.py -> [trace_layer.py] -> deployments.observability.tracing
What is not sampled costs a look-up of one header.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from deployments.observability.tracing import SAMPLED, ReplicaTracer, activate_span
from deployments.server.request import Handler, Request, Response

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class TraceLayer:
    """Begins a span with a request, and ends it with the request's end."""

    def __init__(self, tracer: ReplicaTracer) -> None:
        self._tracer = tracer

    def admit(self, request: Request) -> None:
        """Begin the span of a sampled request."""
        if not request.headers.get(b"traceparent", b"").endswith(SAMPLED):
            return
        headers = {name: request.get_header(name.encode()).decode("latin-1") for name in ("traceparent", "tracestate")}
        attributes = {
            "http.request.method": request.method,
            "url.path": request.path,
            "shoal.request_id": request.request_id or "",
        }
        request.trace = self._tracer.start_request({k: v for k, v in headers.items() if v}, attributes)

    def leave(self, request: Request) -> None:
        """End it."""
        if request.trace is not None:
            self._tracer.end_request(request.trace, request.status)


def activate_traces(handler: Handler) -> Handler:
    """Make a request's span the current one of its handler's task."""

    async def handle_traced(request: Request, span: "Span") -> Response | None:
        activate_span(span)
        response = handler(request)
        assert response is not None, "what is traced is answered by a task"
        return await response

    def handle(request: Request) -> Awaitable[Response | None] | None:
        return handler(request) if request.trace is None else handle_traced(request, request.trace)

    return handle
