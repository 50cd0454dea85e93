"""HTTP/1.1 server of a replica: an asyncio.Protocol on httptools that calls an ASGI application, in the replica's loop.

Request walk: caller -> HAProxy -> [http_server.py] -> asgi.py -> middleware.py
It is the leanest server that measurement found (tests/benchmarks/servers.md); what it leaves out, the edge does: TLS,
HTTP/2, limits of headers and connections, slow senders. It serves no WebSockets and calls no lifespan.
"""

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools

from deployments.errors import encode_error
from deployments.server.asgi import RESPONSE_STARTED, App, Message, Scope

# Received bytes of a body that wait for the application, before the connection is no longer read.
MAX_WAITING_BODY = 256 * 1024
# A connection without a complete header by then is closed; after the first request the edge keeps it for others.
FIRST_REQUEST_TIMEOUT_S = 10.0
# After a response that did not wait for the end of the body: closed at once, the connection would be reset, and its
# sender might lose the response.
LINGER_S = 2.0
POLL_INTERVAL_S = 0.02
# nginx's status of a request whose caller left; nobody gets it, metrics count it.
CLIENT_DISCONNECTED = 499

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MALFORMED_BODY = encode_error("bad_request", "the request is not valid HTTP", None)
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_MALFORMED_BODY), _MALFORMED_BODY)
)
_BODILESS = (204, 304)
_ASGI = {"version": "3.0", "spec_version": "2.3"}
logger = logging.getLogger("ray.serve")


OnFinished = Callable[[int, float], None]


def _ignore(status: int, duration_s: float) -> None:
    """Where nobody counts."""


class HttpServer:
    """Serves one ASGI application on one port."""

    def __init__(self, app: App, on_finished: OnFinished = _ignore) -> None:
        """Make a server; it listens after `start`.

        Args:
            app: the application.
            on_finished: told status and seconds of each request; 499 where the caller left before the response.
        """
        self.app, self.on_finished = app, on_finished
        self.ongoing = 0
        self.connections: set[_Connection] = set()
        self.is_draining = False
        self._server: asyncio.Server | None = None
        self._date = (0, b"")

    async def start(self, host: str, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a port of an address, or on any free one; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, loop), host, port, backlog=4096, ssl=tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def drain(self, timeout_s: float) -> None:
        """Finish the requests that are inside, for timeout_s at most; then close the port and every connection."""
        deadline = time.monotonic() + timeout_s
        self.is_draining = True
        while self.ongoing and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)
        if self._server:
            self._server.close()
        for connection in list(self.connections):
            connection.close()

    def encode_date(self) -> bytes:
        """The header field `date`, encoded once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = now, f"date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._date[1]


class _Connection(asyncio.Protocol):
    """One connection: parses requests, and answers one at a time in their order."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._parser: Any = httptools.HttpRequestParser(self)
        self._first_request: asyncio.TimerHandle | None = None
        # Requests that were parsed and not answered; only the first one runs.
        self._exchanges: deque[_Exchange] = deque()
        self._receiving: _Exchange | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        # Set where the peer has read most of what was written; None where it has.
        self.drained: asyncio.Event | None = None
        self._is_read_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.server.connections.add(self)
        self._first_request = self.loop.call_later(FIRST_REQUEST_TIMEOUT_S, self.close)

    def connection_lost(self, exception: Exception | None) -> None:
        self.server.connections.discard(self)
        if self._first_request:
            self._first_request.cancel()
        for exchange in self._exchanges:
            exchange.disconnect()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # The edge sends no such request; behind an answer that is not out yet nothing can be said.
            if not self._exchanges:
                self.transport.write(_MALFORMED)
            self.close()
        if len(self._exchanges) > 1:
            self.pause_reading()

    def pause_writing(self) -> None:
        self.drained = asyncio.Event()

    def resume_writing(self) -> None:
        if self.drained:
            self.drained.set()
            self.drained = None

    def pause_reading(self) -> None:
        """Stop reading, until resume_reading."""
        if not self._is_read_paused:
            self._is_read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._is_read_paused:
            self._is_read_paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Close the connection; what was written is still sent."""
        self.transport.close()

    # Called by httptools:

    def on_message_begin(self) -> None:
        self._url, self._headers, self._expects_continue = b"", [], False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._first_request:
            self._first_request.cancel()
            self._first_request = None
        parser = self._parser
        method = parser.get_method()
        path, _, query = self._url.partition(b"?")
        if not path.startswith(b"/"):
            # The absolute form, http://host/path.
            path = httptools.parse_url(self._url).path or b"/"
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": parser.get_http_version(),
            # A HEAD's response is a GET's, less the body.
            "method": "GET" if method == b"HEAD" else method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": None,
            "server": None,
            RESPONSE_STARTED: False,
        }
        exchange = _Exchange(self, scope, parser.should_keep_alive(), self._expects_continue, method == b"HEAD")
        self._receiving = exchange
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            exchange.start()

    def on_body(self, body: bytes) -> None:
        if self._receiving:
            self._receiving.receive_body(body)

    def on_message_complete(self) -> None:
        if self._receiving:
            self._receiving.receive_end()
            self._receiving = None

    def finish(self, exchange: "_Exchange") -> None:
        """Go on with the next request after a response, or close the connection."""
        self._exchanges.popleft()
        if not exchange.keep_alive or self.server.is_draining:
            if exchange.is_received:
                self.close()
            else:
                # A sender that is stuck in its body would not come to read the response.
                self.resume_reading()
                self.loop.call_later(LINGER_S, self.close)
            return
        if self._exchanges:
            self._exchanges[0].start()
        if len(self._exchanges) <= 1:
            self.resume_reading()


class _Exchange:
    """One request and its response; `receive` and `send` are ASGI's."""

    __slots__ = (
        "_body",
        "_connection",
        "_expects_continue",
        "_has_delivered_end",
        "_head",
        "_is_chunked",
        "_is_disconnected",
        "_is_head_request",
        "_is_sent",
        "_scope",
        "_started_s",
        "_status",
        "_task",
        "_waiter",
        "is_received",
        "keep_alive",
    )

    def __init__(
        self, connection: _Connection, scope: Scope, keep_alive: bool, expects_continue: bool, is_head_request: bool
    ) -> None:
        self._connection, self._scope, self.keep_alive = connection, scope, keep_alive
        self._expects_continue, self._is_head_request = expects_continue, is_head_request
        self._body: list[bytes] = []
        self.is_received = self._has_delivered_end = self._is_disconnected = False
        self._waiter: asyncio.Future[None] | None = None
        self._head: bytes | None = None
        self._is_chunked = self._is_sent = False
        self._status = CLIENT_DISCONNECTED
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call the application."""
        self._connection.server.ongoing += 1
        self._started_s = time.perf_counter()
        self._task = self._connection.loop.create_task(self._run())

    async def _run(self) -> None:
        connection = self._connection
        try:
            await connection.server.app(self._scope, self.receive, self.send)
            if not self._is_sent and not self._is_disconnected:
                raise RuntimeError("the application returned before its response was complete")
        except Exception:
            logger.exception("request failed: %s %s", self._scope["method"], self._scope["path"])
        finally:
            server = connection.server
            server.ongoing -= 1
            server.on_finished(self._status, time.perf_counter() - self._started_s)
            if self._is_sent:
                connection.finish(self)
            else:
                # A response that breaks off must not look complete.
                connection.transport.abort()

    def receive_body(self, body: bytes) -> None:
        """Take bytes of the body from the parser."""
        if self._is_sent:
            return  # nobody reads it any more
        self._body.append(body)
        if len(self._body) > 1 and sum(map(len, self._body)) > MAX_WAITING_BODY:
            self._connection.pause_reading()
        self._wake()

    def receive_end(self) -> None:
        """Take the end of the body from the parser."""
        self.is_received = True
        if self._is_sent and not self.keep_alive:
            self._connection.close()
        self._wake()

    def disconnect(self) -> None:
        """The connection is gone."""
        self._is_disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI: the next part of the body, then the disconnect."""
        while True:
            if self._body:
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                self._connection.resume_reading()
                self._has_delivered_end = self.is_received
                return {"type": "http.request", "body": body, "more_body": not self.is_received}
            if self.is_received and not self._has_delivered_end:
                self._has_delivered_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._is_disconnected or self._is_sent:
                return {"type": "http.disconnect"}
            if self._expects_continue and self._head is None:
                self._expects_continue = False
                self._connection.transport.write(_CONTINUE)
            self._waiter = self._connection.loop.create_future()
            await self._waiter

    async def send(self, message: Message) -> None:
        """ASGI: the response's start, then its body in one or more parts."""
        if self._is_disconnected:
            return
        if message["type"] == "http.response.start":
            self._scope[RESPONSE_STARTED] = True
            self._status = message["status"]
            self._head = self._encode_head(self._status, message.get("headers", ()))
            return
        assert self._head is not None, "the body follows the start"
        body, more_body = message.get("body", b""), message.get("more_body", False)
        if self._is_head_request:
            body = b""
        elif self._is_chunked:
            body = _encode_chunk(body, more_body)
        self._is_sent = not more_body
        if body or self._head or self._is_sent:
            self._connection.transport.write(self._head + body)
            self._head = b""
        drained = self._connection.drained
        if drained:
            await drained.wait()

    def _encode_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        has_length = status in _BODILESS
        for name, value in headers:
            has_length = has_length or name == b"content-length"
            parts.append(b"%b: %b\r\n" % (name, value))
        if not has_length:
            if self._scope["http_version"] == "1.1":
                self._is_chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.is_received:
            self.keep_alive = False
        if not self.keep_alive or self._connection.server.is_draining:
            parts.append(b"connection: close\r\n")
        parts += (self._connection.server.encode_date(), b"\r\n")
        return b"".join(parts)


def _encode_chunk(body: bytes, more_body: bool) -> bytes:
    """Encode a part of a body, and its end: https://www.rfc-editor.org/rfc/rfc9112#section-7.1."""
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return chunk if more_body else chunk + b"0\r\n\r\n"
