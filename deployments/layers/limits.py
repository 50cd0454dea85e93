"""How much one replica takes on: requests inside at a time, seconds for each, bytes of a body."""

import asyncio

from deployments.errors import BodyTimeout, QueueFull, TimedOut, TooLarge, WrongContentType
from deployments.layers.asgi import App, Receive, Scope, Send, header
from deployments.settings import Limits


class Bounded:
    """Refuses what is over the queue's limit and gives up what takes too long."""

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._inside >= self._limits.max_queue:
            raise QueueFull(f"this replica holds {self._inside} requests, its limit; try again shortly")
        self._inside += 1
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise TimedOut(f"no answer within {self._limits.request_timeout_s:g} s; try again, or send less") from None
        finally:
            self._inside -= 1


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
