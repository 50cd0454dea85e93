"""Edge spans: the edge's part of sampled requests, from HAProxy's own times in its log.

Their ids are those that HAProxy gave on to the replica, whose span is their child.
"""

from typing import TYPE_CHECKING, Any

from deployments.observability.tracing import ReplicaTracer

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext


class EdgeSpans:
    """Makes a span of each line of a sampled request."""

    def __init__(self, tracer: ReplicaTracer) -> None:
        self._tracer = tracer

    def add(self, line: dict[str, Any]) -> None:
        """Make the span of one line."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanKind, Status, StatusCode

        parent = line["parent_id"]
        span = ReadableSpan(
            "edge",
            context=_build_context(line["trace_id"], line["span_id"]),
            parent=_build_context(line["trace_id"], parent) if len(parent) == 16 else None,
            resource=self._tracer.resource,
            attributes={
                "http.request.method": line["method"],
                "url.path": line["path"],
                "http.response.status_code": line["status"],
                "shoal.request_id": line["request_id"],
                "shoal.server": line["server"],
                "shoal.edge.queue_ms": line["queue_ms"],
                "shoal.edge.connect_ms": line["connect_ms"],
            },
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if line["status"] >= 500 else StatusCode.UNSET),
            start_time=line["start_us"] * 1000,
            end_time=line["end_us"] * 1000,
        )
        self._tracer.processor.on_end(span)


def _build_context(trace_id: str, span_id: str) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(TraceFlags.SAMPLED))
