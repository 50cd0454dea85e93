"""How much one replica takes on: requests inside at a time, seconds for each, bytes of a body."""

import asyncio
import math

from deployments.errors import BodyTimeout, QueueFull, TimedOut, TooLarge, WrongContentType
from deployments.layers.asgi import App, Receive, Scope, Send, header
from deployments.settings import Limits


class Bounded:
    """Refuses what is over the queue's limit and gives up what takes too long.

    One timer for all requests: with one for each (asyncio.timeout), setting and cancelling them took 7% of a small
    model's time. A stream that has begun keeps its own time; see events.py.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._deadlines: dict[asyncio.Task[None], float] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if len(self._deadlines) >= self._limits.max_queue:
            raise QueueFull(f"this replica holds {len(self._deadlines)} requests, its limit; try again shortly")
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._deadlines[task] = loop.time() + self._limits.request_timeout_s
        scope["bounds"] = self
        if self._timer is None:
            self._sweep(loop)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if task not in self._late:
                raise  # the caller has gone
            task.uncancel()
            raise TimedOut(f"no answer within {self._limits.request_timeout_s:g} s; try again, or send less") from None
        finally:
            del self._deadlines[task]
            self._late.discard(task)

    def lift(self, task: "asyncio.Task[None]") -> float:
        """Let a request whose answer has begun take longer; returns the seconds that it has for the rest."""
        self._deadlines[task] = math.inf
        return self._limits.stream_timeout_s

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what is late, and look again soon while anything is left."""
        now = loop.time()
        for task, deadline in self._deadlines.items():
            if deadline <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        again_s = self._limits.request_timeout_s / 20
        self._timer = loop.call_later(again_s, self._sweep, loop) if self._deadlines else None


def refuse_encoding(scope: Scope) -> None:
    """Take no compressed body: a small one can hold any amount.

    Raises:
        WrongContentType: the body is encoded.
    """
    encoding = header(scope, b"content-encoding")
    if encoding not in (b"", b"identity"):
        raise WrongContentType(f"content encoding {encoding.decode('latin-1')!r}; send the body as it is")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read a whole body, and no more than the limit of it.

    Raises:
        TooLarge: it is larger; told from the Content-Length before a byte is read where there is one.
        BodyTimeout: the caller left before its end.
    """
    length = header(scope, b"content-length")
    if length and int(length) > max_bytes:
        raise TooLarge(f"a body of {int(length)} bytes; the limit is {max_bytes}")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    chunks, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyTimeout("the connection closed before the body's end")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise TooLarge(f"a body of more than {max_bytes} bytes, which is the limit")
    return b"".join(chunks)
