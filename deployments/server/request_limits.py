"""Request limits of one replica: concurrent requests, seconds for each, bytes of a body.

A request whose caller has disconnected is canceled too.
"""

import asyncio
import math
from dataclasses import dataclass

from deployments.errors import (
    BodyTimeout,
    ClientDisconnected,
    DeadlineExceeded,
    PayloadTooLarge,
    QueueFull,
    UnsupportedMediaType,
)
from deployments.server.asgi import App, Receive, Scope, Send, get_header
from deployments.server.scheduling import BATCH, PRIORITIES, PRIORITY_HEADER
from deployments.settings import Limits

# Requests older than this are checked: has the caller disconnected, has the deadline passed? To watch every caller from
# the first moment takes a task for each request.
CHECK_INTERVAL_S = 0.25


@dataclass(slots=True)
class _OngoingRequest:
    """A request inside the layer.

    Attributes:
        scope: of the request.
        receive: its channel; the next message after the body is the disconnect.
        started_s: when it came, in the event loop's time.
        deadline_s: when it is canceled, in the event loop's time.
        disconnect_watcher: the task that waits for the disconnect.
        cancellation: what the caller gets where this layer canceled the request.
    """

    scope: Scope
    receive: Receive
    started_s: float
    deadline_s: float
    disconnect_watcher: asyncio.Task[None] | None = None
    cancellation: ClientDisconnected | DeadlineExceeded | None = None


class RequestLimits:
    """Refuses requests over the queue's limit; cancels those that are late or whose caller has disconnected.

    One timer for all requests: with one for each (asyncio.timeout), setting and canceling them took 7% of a small
    model's time. A stream that has begun has its own timeout; see sse.py.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        # Batch requests leave half of the places to interactive ones.
        self._max_batch_requests = max(1, limits.max_queue // 2)
        self._check_interval_s = min(CHECK_INTERVAL_S, limits.request_timeout_s / 20)
        self._ongoing: dict[asyncio.Task[None], _OngoingRequest] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if len(self._ongoing) >= self._max_batch_requests:
            self._reject_excess(scope)
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        request = self._ongoing[task] = _OngoingRequest(scope, receive, now_s, now_s + self._limits.request_timeout_s)
        scope["request_limits"] = self
        if self._timer is None:
            self._timer = loop.call_later(self._check_interval_s, self._check_ongoing, loop)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if request.cancellation is None:
                raise  # canceled by something else
            task.uncancel()
            raise request.cancellation from None
        finally:
            del self._ongoing[task]
            if request.disconnect_watcher:
                request.disconnect_watcher.cancel()

    def _reject_excess(self, scope: Scope) -> None:
        """Raise QueueFull where a request's priority has no place left."""
        ongoing = len(self._ongoing)
        if ongoing >= self._limits.max_queue:
            raise QueueFull(f"this replica has {ongoing} requests, its limit; try again shortly")
        if PRIORITIES.get(get_header(scope, PRIORITY_HEADER).lower()) == BATCH:
            raise QueueFull(f"this replica has {ongoing} requests, its limit for batch requests; try again shortly")

    @property
    def stall_timeout_s(self) -> float:
        """Seconds that a caller may take to read an event."""
        return self._limits.stream_stall_timeout_s

    def extend_deadline(self, task: "asyncio.Task[None]") -> float:
        """Lift the deadline of a request whose response has begun; returns the seconds that the stream may take."""
        self._ongoing[task].deadline_s = math.inf
        return self._limits.stream_timeout_s

    def _check_ongoing(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel late requests and watch the callers of old ones; runs again while there are requests."""
        now_s = loop.time()
        for task, request in self._ongoing.items():
            if request.deadline_s <= now_s:
                timeout_s = self._limits.request_timeout_s
                _cancel(task, request, DeadlineExceeded(f"no response within {timeout_s:g} s; try again, or send less"))
            elif request.started_s > now_s - self._check_interval_s:
                break  # they are in the order of their arrival
            elif request.disconnect_watcher is None and "body_read" in request.scope:
                request.disconnect_watcher = loop.create_task(_watch_disconnect(task, request))
        self._timer = loop.call_later(self._check_interval_s, self._check_ongoing, loop) if self._ongoing else None


async def _watch_disconnect(task: "asyncio.Task[None]", request: _OngoingRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    _cancel(task, request, ClientDisconnected("the caller closed the connection"))


def _cancel(
    task: "asyncio.Task[None]", request: _OngoingRequest, cancellation: ClientDisconnected | DeadlineExceeded
) -> None:
    if request.cancellation is None:
        request.cancellation = cancellation
        task.cancel()


def reject_encoding(scope: Scope) -> None:
    """Refuse compressed bodies: a small one can decompress to any size.

    Raises:
        UnsupportedMediaType: the body is encoded.
    """
    encoding = get_header(scope, b"content-encoding")
    if encoding not in (b"", b"identity"):
        raise UnsupportedMediaType(
            f"content encoding {encoding.decode('latin-1')!r} is not supported; send the body without one"
        )


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read a body, up to its limit.

    It sets "body_read" in the scope: the next message is the disconnect, which RequestLimits may watch for.

    Raises:
        PayloadTooLarge: it is larger; known from Content-Length, where there is one, before a byte is read.
        BodyTimeout: the caller disconnected before its end.
    """
    content_length = get_header(scope, b"content-length")
    if content_length and int(content_length) > max_bytes:
        raise PayloadTooLarge(f"the body has {int(content_length)} bytes; the limit is {max_bytes}")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        scope["body_read"] = True
        return body
    chunks, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyTimeout("the connection closed before the end of the body")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise PayloadTooLarge(f"the body has more than {max_bytes} bytes, the limit")
    scope["body_read"] = True
    return b"".join(chunks)
