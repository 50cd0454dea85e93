"""ASGI applications, such as FastAPI's, as handlers of the HTTP server.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from deployments.access.caller import CURRENT_CALLER
from deployments.access.usage.call_event import CURRENT_EVENT, HEADER, parse_event
from deployments.server.request import Request, Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST = "shoal.request"
"""Key of a scope: the Request that it was made of."""

_VERSION = {"version": "3.0", "spec_version": "2.3"}


class AsgiHandler:
    """Answers requests by an ASGI application; it gets each body in one part."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, request: Request) -> Response | None:
        """Answer a request."""
        CURRENT_CALLER.set(request.caller)
        event = parse_event(request.get_header(HEADER))
        CURRENT_EVENT.set(event._replace(request_id=request.get_header(b"x-request-id")))
        exchange = _AsgiExchange(request)
        await self._app(build_scope(request), exchange.receive, exchange.send)
        return exchange.response


def build_scope(request: Request) -> Scope:
    """Build the scope of a request."""
    return {
        "type": "http",
        "asgi": _VERSION,
        "http_version": request.http_version,
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "root_path": "",
        "headers": [*request.headers.items(), *request.duplicates],
        "client": None,
        "server": None,
        REQUEST: request,
    }


class _AsgiExchange:
    """`receive` and `send` of one request; a response that comes in one part is kept in `response`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_body_taken = False
        self._status, self._headers = 0, []  # type: tuple[int, list[tuple[bytes, bytes]]]
        self.response: Response | None = None

    async def receive(self) -> Message:
        if not self._is_body_taken:
            self._is_body_taken = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        if self.response is None:
            await self._request.wait_closed()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
            return
        body, more_body = message.get("body", b""), message.get("more_body", False)
        if not more_body and not self._request.is_started:
            headers = [(name, value) for name, value in self._headers if name.lower() != b"content-length"]
            self.response = Response(self._status, body, b"", headers)
            return
        if not self._request.is_started:
            await self._request.start(self._status, self._headers)
        await self._request.write(body)
        if not more_body:
            await self._request.end()
