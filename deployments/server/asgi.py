"""ASGI types, and the few functions that every layer uses.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
Headers = Iterable[tuple[bytes, bytes]]

RESPONSE_STARTED = "shoal.response_started"
"""Key of a scope: whether its response has begun. A server that keeps it saves the error layer a wrapper."""

_HEADER_MAP = "shoal.header_map"


def get_headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by (lower case) name; of several, the first."""
    headers: dict[bytes, bytes] | None = scope.get(_HEADER_MAP)
    if headers is None:
        # Made once a request: the layers look some ten names up.
        headers = scope[_HEADER_MAP] = dict(reversed(scope["headers"]))
    return headers


def get_header(scope: Scope, name: bytes) -> bytes:
    """Return the first header of this (lower case) name, or b""."""
    return get_headers(scope).get(name, b"")


async def send_response(
    send: Send, status: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()
) -> None:
    """Send a complete response."""
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def reject_non_http(scope: Scope, receive: Receive, send: Send) -> None:
    """Acknowledge the server's lifespan events, which nothing here uses, and close WebSockets."""
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
    else:
        await receive()
        await send({"type": "websocket.close", "code": 1003})
