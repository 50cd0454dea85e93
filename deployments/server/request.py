"""Request and response: what the HTTP server hands to an application, and what it takes back.

Request walk: http_server.py -> http_exchange.py -> [request.py] -> middleware.py
A request is handed over whole, header and body: every handler here needs all of a body before it can begin, and a
coroutine for each part of it is what made ASGI cost more than the net (tests/benchmarks/servers.md). asgi.py runs ASGI
applications on top.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import msgspec

from deployments.access.caller import NOBODY, Caller
from deployments.errors import ClientError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from deployments.access.limits.accounts import Charge
    from deployments.access.usage.request_usage import RequestUsage
    from deployments.server.request_limits import RequestLimits
    from deployments.server.scheduling import Scheduling

JSON = b"application/json"
Headers = Iterable[tuple[bytes, bytes]]


class Response(msgspec.Struct):
    """A complete response.

    Attributes:
        status: HTTP's.
        body: of the response.
        content_type: of the body.
        headers: further fields, in lower case; without content-length, which the server adds.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()


class Request(ABC):
    """One request, and the way back to its caller.

    Attributes:
        method: a HEAD request has GET, since its response is a GET's less the body.
        target: path and query, in origin form (RFC 9112, 3.2.1); what was sent in absolute form is without its host.
        headers: by lower case name; of a name that comes twice, the first.
        duplicates: the fields whose name came before.
        http_version: 1.0 or 1.1.
        body: all of it, once the handler runs.
        is_received: whether all of it is here.
        caller: whom the edge has found by the key; nobody for public paths.
        limits: set by the layer of that name; None without it.
        charge: what it has taken of its caller's limits; None where the caller has none.
        needs_task: whether its handler has to return an awaitable.
        scheduling: deadline and priority that the caller has chosen; None where it says nothing.
        trace: its span; None where it is not traced.
        usage: what it comes to, where that is counted.
        is_started: whether the response has begun.
        status: of the response, once it has begun.
        on_cancel: called where the request ends before a handler without a task has responded; see Handler.
    """

    # Defaults in the class: a request sets only what is its own.
    body: bytes = b""
    is_received: bool = True
    caller: Caller = NOBODY
    limits: "RequestLimits | None" = None
    charge: "Charge | None" = None
    needs_task: bool = False
    scheduling: "Scheduling | None" = None
    trace: "Span | None" = None
    usage: "RequestUsage | None" = None
    is_started: bool = False
    status: int = 0
    on_cancel: Callable[[], None] | None = None
    _path: str = ""

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: dict[bytes, bytes],
        duplicates: list[tuple[bytes, bytes]],
        http_version: str = "1.1",
    ) -> None:
        self.method, self.target, self.headers, self.duplicates = method, target, headers, duplicates
        self.http_version = http_version

    @property
    def raw_path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def path(self) -> str:
        """The decoded path."""
        if not self._path:
            path = self.raw_path.decode("latin-1")
            self._path = unquote(path) if "%" in path else path
        return self._path

    @property
    def query(self) -> bytes:
        """What follows the question mark."""
        return self.target.partition(b"?")[2]

    def get_header(self, name: bytes) -> bytes:
        """Return the first header of this (lower case) name, or b""."""
        return self.headers.get(name, b"")

    @property
    def request_id(self) -> str | None:
        """The edge's."""
        return self.headers.get(b"x-request-id", b"").decode("latin-1") or None

    @abstractmethod
    def respond(self, response: Response) -> None:
        """Send a complete response, where the handler has returned None for an awaitable."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Respond with an error, where the handler has returned None for an awaitable."""

    @abstractmethod
    def cancel(self, error: ClientError) -> None:
        """End the request with an error, whatever its handler does; without effect once its response is complete."""

    @abstractmethod
    async def start(self, status: int, headers: Headers) -> None:
        """Begin a response whose body comes in parts."""

    @abstractmethod
    async def write(self, part: bytes) -> None:
        """Send a part of the body; returns when the caller has read most of what was sent."""

    @abstractmethod
    async def end(self) -> None:
        """End a response that came in parts."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the response is complete, or the caller has disconnected."""


Handler = Callable[[Request], Awaitable[Response | None] | None]
"""Answers a request.

It returns an awaitable, which the server makes a task of: of the response, or of None where it has answered with
`start`, `write` and `end`. A task is a tenth of a small model's time; a handler that needs none returns None itself,
sets `on_cancel`, and calls `respond` or `fail` later. Its errors are answered for it.
"""


class Layer(Protocol):
    """What every request passes."""

    def admit(self, request: Request) -> None:
        """Check a request's header, before its body is taken.

        Raises:
            ClientError: it is refused.
        """

    def leave(self, request: Request) -> None:
        """A request is at its end, however that came; also one that another layer has refused."""


class App(Protocol):
    """What a server serves."""

    handler: Handler
    layers: tuple[Layer, ...]
    max_body_bytes: int

    def encode_error(self, request: Request, error: Exception) -> Response:
        """Encode what a layer or the handler has raised."""
