"""Request usage: what one request comes to, filled in on its way; written into the outbox before its response is sent.

Request walk: deployments.server.middleware -> [request_usage.py] -> outbox.py
"""

from contextvars import ContextVar
from typing import Protocol

from deployments.access.caller import Caller
from deployments.access.usage.call_event import HEADER, CallEvent, parse_event
from deployments.server.request import Request


class RequestUsage:
    """What one request comes to.

    Attributes:
        sink: that takes it at the end.
        caller: who pays.
        event: what it is counted by.
        request_id: the caller's own, or the edge's.
        bytes_in: of its body.
        bytes_out: of its response.
        rows: of its inputs.
        tokens_in: of its inputs, where they are texts.
        tokens_out: that were generated for it.
        compute_s: its share of forward passes, by rows.
        is_written: whether it has been counted.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "caller",
        "compute_s",
        "event",
        "is_written",
        "request_id",
        "rows",
        "sink",
        "tokens_in",
        "tokens_out",
    )

    def __init__(self, sink: "UsageSink", caller: Caller, event: CallEvent, request_id: bytes = b"") -> None:
        self.sink, self.caller, self.event, self.request_id = sink, caller, event, request_id
        self.bytes_in = self.bytes_out = self.rows = self.tokens_in = self.tokens_out = 0
        self.compute_s = 0.0
        self.is_written = False

    def write(self, status: int) -> None:
        """Count it, before the last byte of its response is sent; without effect the second time."""
        if not self.is_written:
            self.is_written = True
            self.sink.append(self, status)


class UsageSink(Protocol):
    """What takes the usage of requests."""

    def append(self, usage: RequestUsage, status: int) -> None:
        """Take one."""


class _NoSink:
    """Where nobody counts."""

    def append(self, usage: RequestUsage, status: int) -> None:
        """Drop it."""


NO_SINK: UsageSink = _NoSink()

CURRENT_USAGE: ContextVar[RequestUsage | None] = ContextVar("request_usage", default=None)
"""Of the request that a task works for; None where nobody counts."""


class Metering:
    """The layer that has requests which compute counted, also those that later layers refuse."""

    def __init__(self, sink: UsageSink) -> None:
        self._sink = sink

    def admit(self, request: Request) -> None:
        """Begin to count a request."""
        if request.method == "POST":
            headers = request.headers
            event = parse_event(headers.get(HEADER, b""))
            request.usage = RequestUsage(self._sink, request.caller, event, headers.get(b"x-request-id", b""))

    def leave(self, request: Request) -> None:
        """Count a stream that broke off, as far as it came; what has no response is not counted."""
        usage = request.usage
        if usage is not None and not usage.is_written and request.is_started:
            usage.write(request.status)
