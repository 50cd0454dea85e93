"""A real receiver of OTLP over HTTP, in a thread: it parses what exporters send by OpenTelemetry's own messages."""

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """What has arrived."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.endpoint = ""

    def of_trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by their name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}

    def wait_for(self, trace_id: str, *names: str, timeout_s: float = 15) -> dict[str, Span]:
        """Wait for spans of a trace; returns all that are there."""
        deadline = time.monotonic() + timeout_s
        while not set(names) <= self.of_trace(trace_id).keys() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.of_trace(trace_id)


def get_attributes(span: Span) -> dict[str, object]:
    """A span's attributes."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextlib.contextmanager
def run_receiver() -> Iterator[OtlpReceiver]:
    """Receive on a free port."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                receiver.resources.append({e.key: e.value.string_value for e in resource_spans.resource.attributes})
                for scope_spans in resource_spans.scope_spans:
                    receiver.spans += scope_spans.spans
            response = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
