"""Trace layer: the span of each request that the edge has sampled; only there where tracing is on.

Request walk: middleware.py -> [trace_layer.py] -> deployments.observability.tracing
What is not sampled costs a look-up of one header.
"""

from collections.abc import Awaitable

from deployments.observability.tracing import SAMPLED, ReplicaTracer, activate_span
from deployments.server.request import Handler, Request, Response


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
    """Make a request's span the current one of its handler, which has a task of its own."""

    def activate_and_handle(request: Request) -> Awaitable[Response | None]:
        if request.trace is not None:
            activate_span(request.trace)
        return handler(request)

    return activate_and_handle
