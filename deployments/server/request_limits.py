"""How much one replica takes on: requests inside at a time, seconds for each, bytes of a body.

And for whom: work whose caller has left is given up.
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
from deployments.settings import Limits

# Requests that are inside for so long are looked at: is the caller still there, is the time up? Ray would watch every
# caller from the first moment, with a task and a queue for each request, which costs a small model a fifth of its
# throughput; HAProxy tells it not to (cluster/local/haproxy.py).
CHECK_INTERVAL_S = 0.25


@dataclass(slots=True)
class _OngoingRequest:
    """A request on its way: its scope and channel, when it came and is given up, and who watches for its caller."""

    scope: Scope
    receive: Receive
    started_s: float
    deadline_s: float
    watch: asyncio.Task[None] | None = None
    cancel_reason: str = ""


class RequestLimits:
    """Refuses what is over the queue's limit and gives up what takes too long or has nobody left to answer to.

    One timer for all requests: with one for each (asyncio.timeout), setting and cancelling them took 7% of a small
    model's time. A stream that has begun keeps its own time; see events.py.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._check_interval_s = min(CHECK_INTERVAL_S, limits.request_timeout_s / 20)
        self._ongoing: dict[asyncio.Task[None], _OngoingRequest] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if len(self._ongoing) >= self._limits.max_queue:
            raise QueueFull(f"this replica holds {len(self._ongoing)} requests, its limit; try again shortly")
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        now = loop.time()
        inside = self._ongoing[task] = _OngoingRequest(scope, receive, now, now + self._limits.request_timeout_s)
        scope["bounds"] = self
        if self._timer is None:
            self._timer = loop.call_later(self._check_interval_s, self._check_ongoing, loop)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not inside.cancel_reason:
                raise  # somebody else's decision
            task.uncancel()
            if inside.cancel_reason == "left":
                raise ClientDisconnected("the caller has closed the connection") from None
            raise DeadlineExceeded(
                f"no answer within {self._limits.request_timeout_s:g} s; try again, or send less"
            ) from None
        finally:
            del self._ongoing[task]
            if inside.watch:
                inside.watch.cancel()

    def extend_deadline(self, task: "asyncio.Task[None]") -> float:
        """Let a request whose answer has begun take longer; returns the seconds that it has for the rest."""
        self._ongoing[task].deadline_s = math.inf
        return self._limits.stream_timeout_s

    def _check_ongoing(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is late, watch the callers of what lasts, and look again while anything is inside."""
        now = loop.time()
        for task, inside in self._ongoing.items():
            if inside.deadline_s <= now:
                _cancel(task, inside, "late")
            elif inside.started_s > now - self._check_interval_s:
                break  # and so are those that came later
            elif inside.watch is None and "body_read" in inside.scope:
                inside.watch = loop.create_task(_watch_disconnect(task, inside))
        self._timer = loop.call_later(self._check_interval_s, self._check_ongoing, loop) if self._ongoing else None


async def _watch_disconnect(task: "asyncio.Task[None]", inside: _OngoingRequest) -> None:
    while (await inside.receive())["type"] != "http.disconnect":
        pass
    _cancel(task, inside, "left")


def _cancel(task: "asyncio.Task[None]", inside: _OngoingRequest, why: str) -> None:
    if not inside.cancel_reason:
        inside.cancel_reason = why
        task.cancel()


def reject_encoding(scope: Scope) -> None:
    """Take no compressed body: a small one can hold any amount.

    Raises:
        WrongContentType: the body is encoded.
    """
    encoding = get_header(scope, b"content-encoding")
    if encoding not in (b"", b"identity"):
        raise UnsupportedMediaType(f"content encoding {encoding.decode('latin-1')!r}; send the body as it is")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read a whole body, and no more than the limit of it.

    It notes in the scope that the next message will be the caller's leaving, for Bounded to watch for.

    Raises:
        TooLarge: it is larger; told from the Content-Length before a byte is read where there is one.
        BodyTimeout: the caller left before its end.
    """
    length = get_header(scope, b"content-length")
    if length and int(length) > max_bytes:
        raise PayloadTooLarge(f"a body of {int(length)} bytes; the limit is {max_bytes}")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        scope["body_read"] = True
        return body
    chunks, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyTimeout("the connection closed before the body's end")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise PayloadTooLarge(f"a body of more than {max_bytes} bytes, which is the limit")
    scope["body_read"] = True
    return b"".join(chunks)
