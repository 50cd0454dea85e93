"""Tracing: spans of a replica's requests, sent by OTLP over HTTP; only there where `tracing.endpoint` is set.

Request walk: deployments.server.trace_layer -> [tracing.py]
The edge decides what is sampled, gives each such request its W3C trace context and is the parent of the span here:
https://www.w3.org/TR/trace-context/. What is not sampled costs a look-up of one header. Queue and passes are spans made
afterwards from their times; a call by a handle carries its context as an argument.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from deployments.models.chunks import RequestTiming
from deployments.protocols.arrays import Outputs, Rows
from deployments.server.scheduling import Scheduling
from deployments.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span

SAMPLED = b"-01"
SERVICE_NAME = "shoal"
TraceHeaders = dict[str, str]
"""traceparent and, where there is one, tracestate."""
GrpcMethod = Callable[[bytes, Any], Awaitable[bytes]]
Forward = Callable[..., Awaitable[Outputs]]

_current_span: ContextVar["Span | None"] = ContextVar("current_span", default=None)


class ReplicaTracer:
    """Makes the spans of one replica, or of the edge's process."""

    def __init__(self, settings: TracingSettings, attributes: dict[str, str]) -> None:
        """Begin to export.

        Args:
            settings: with an endpoint.
            attributes: of everything in this process, by OpenTelemetry's semantic conventions.
        """
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self.processor = _build_provider(settings, attributes)
        self.resource = self._provider.resource
        self._tracer = self._provider.get_tracer("shoal")
        self._propagator = TraceContextTextMapPropagator()

    def start_request(self, headers: TraceHeaders, attributes: dict[str, Any]) -> "Span | None":
        """Begin the span of a request from the edge; None where it is not sampled.

        Args:
            headers: of the edge's span.
            attributes: of the request.
        """
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span("server", self._propagator.extract(headers), SpanKind.SERVER, attributes)
        return span if span.get_span_context().trace_flags.sampled else None

    def end_request(self, span: "Span", status: int) -> None:
        """End the span of a request."""
        span.set_attribute("http.response.status_code", status)
        _set_status(span, status)
        span.end()

    def trace_grpc(self, method: GrpcMethod, name: str) -> GrpcMethod:
        """Put a span around the sampled calls of a unary gRPC method."""
        from opentelemetry.trace import SpanKind

        async def traced_method(body: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            headers = {key: str(metadata[key]) for key in ("traceparent", "tracestate") if key in metadata}
            if not headers.get("traceparent", "").endswith(SAMPLED.decode()):
                return await method(body, context)
            with self._use_span("server", SpanKind.SERVER, headers, {"rpc.system": "grpc", "rpc.method": name}):
                return await method(body, context)

        return traced_method

    @contextlib.contextmanager
    def _use_span(
        self, name: str, kind: Any, headers: TraceHeaders | None, attributes: dict[str, Any]
    ) -> Iterator["Span"]:
        """A span below the one that headers name, or below the current one; the current one while it lasts."""
        from opentelemetry.trace import set_span_in_context

        parent = _current_span.get()
        context = set_span_in_context(parent) if headers is None and parent else self._propagator.extract(headers or {})
        span = self._tracer.start_span(name, context, kind, attributes)
        token = _current_span.set(span if span.get_span_context().trace_flags.sampled else None)
        try:
            yield span
        except Exception as error:
            _set_status(span, getattr(error, "status", 500))
            raise
        finally:
            span.end()
            _current_span.reset(token)

    def trace_call(self, headers: TraceHeaders) -> contextlib.AbstractContextManager["Span"]:
        """A span around a call that came by a handle.

        Args:
            headers: of the caller's span.
        """
        from opentelemetry.trace import SpanKind

        return self._use_span("server", SpanKind.SERVER, headers, {"rpc.system": "ray_serve_handle"})

    def trace_node(self, path: str, model: str) -> contextlib.AbstractContextManager["Span | None"]:
        """A span around a pipeline's node."""
        from opentelemetry.trace import SpanKind

        if _current_span.get() is None:
            return contextlib.nullcontext()
        return self._use_span(f"node {path}", SpanKind.CLIENT, None, {"shoal.node": path, "shoal.model": model})

    def inject_headers(self) -> dict[str, TraceHeaders]:
        """The current span as HandleApi's argument `trace`; nothing where the request is not sampled."""
        from opentelemetry.trace import set_span_in_context

        span = _current_span.get()
        if span is None:
            return {}
        headers: TraceHeaders = {}
        self._propagator.inject(headers, set_span_in_context(span))
        return {"trace": headers}

    def trace_forward(self, forward: Forward) -> Callable[[Rows, Scheduling | None], Awaitable[Outputs]]:
        """Make the spans `queue` and `pass` of what a batcher does for sampled requests."""

        async def traced_forward(rows: Rows, scheduling: Scheduling | None) -> Outputs:
            parent = _current_span.get()
            if parent is None:
                return await forward(rows, scheduling)
            timing = RequestTiming()
            try:
                return await forward(rows, scheduling, timing)
            finally:
                self._add_pass_spans(parent, timing, len(rows))

        return traced_forward

    def _add_pass_spans(self, parent: "Span", timing: RequestTiming, rows: int) -> None:
        from opentelemetry.trace import set_span_in_context

        if not timing.passes:
            return
        # Spans have wall clock times.
        offset_ns = time.time_ns() - time.perf_counter_ns()
        queued, started, ended = (
            offset_ns + round(each_s * 1e9) for each_s in (timing.queued_s, timing.started_s, timing.ended_s)
        )
        context = set_span_in_context(parent)
        self._tracer.start_span("queue", context, start_time=queued).end(started)
        attributes = {"shoal.rows": rows, "shoal.passes": timing.passes, "shoal.pass_rows": timing.pass_rows}
        self._tracer.start_span("pass", context, attributes=attributes, start_time=started).end(ended)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def activate_span(span: "Span") -> None:
    """Make a span the current one of this task."""
    _current_span.set(span)


def build_tracer(settings: TracingSettings, model: str, version: int, replica: str) -> ReplicaTracer | None:
    """Build the tracer of a replica; None where tracing is off."""
    if not settings.endpoint:
        return None
    return ReplicaTracer(
        settings, {"service.instance.id": replica, "shoal.model": model, "shoal.version": str(version or "")}
    )


def _build_provider(settings: TracingSettings, attributes: dict[str, str]) -> "tuple[TracerProvider, SpanProcessor]":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    # The edge has decided: what comes without its context is not sampled.
    provider = TracerProvider(
        sampler=ParentBased(ALWAYS_OFF), resource=Resource.create({"service.name": SERVICE_NAME} | attributes)
    )
    processor = BatchSpanProcessor(OTLPSpanExporter(settings.endpoint), schedule_delay_millis=1000)
    provider.add_span_processor(processor)
    return provider, processor


def _set_status(span: "Span", status: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
