# ruff: noqa: D102 - methods of asyncio.Protocol and httptools, documented there
"""HTTP/1.1 server of a replica: an asyncio.Protocol on httptools that calls a handler, in the replica's loop.

Request walk: caller -> HAProxy -> [http_server.py] -> http_exchange.py -> request.py -> middleware.py
It is the leanest server that measurement found (tests/benchmarks/servers.md); what it leaves out, the edge does: TLS,
HTTP/2, limits of headers and connections, slow senders. It serves no WebSockets.
"""

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httptools

from deployments.errors import ClientError, encode_error
from deployments.server.http_exchange import Exchange
from deployments.server.request import App
from deployments.server.served import Served

# A connection without a complete header by then is closed; after the first request the edge keeps it for others.
FIRST_REQUEST_TIMEOUT_S = 10.0
# After a response that did not wait for the end of the body: closed at once, the connection would be reset, and its
# sender might lose the response.
LINGER_S = 2.0
POLL_INTERVAL_S = 0.02
BACKLOG = 4096

_MALFORMED_MESSAGE = "the request is not valid HTTP"
_MALFORMED_BODY = encode_error(ClientError.code, _MALFORMED_MESSAGE, None)
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_MALFORMED_BODY), _MALFORMED_BODY)
)
# To `OPTIONS *`, HTTP's own ping (RFC 9110, 9.3.7), by which edges see that this loop runs. No caller's gets here.
_PONG = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
logger = logging.getLogger("ray.serve")


OnFinished = Callable[[str, int, float], None]


def _ignore(method: str, status: int, duration_s: float) -> None:
    """Where nobody counts."""


class HttpServer:
    """Serves one application, on a port and a Unix socket."""

    def __init__(self, app: App, on_finished: OnFinished = _ignore, served: Served | None = None) -> None:
        """Make a server; it listens after `start`.

        Args:
            app: the application.
            on_finished: told method, status and seconds of each request; 499 where the caller left before the response.
            served: what every response is of; None where they differ.
        """
        self.app, self.on_finished = app, on_finished
        self.admitting = tuple(layer.admit for layer in app.layers)
        self.leaving = tuple(layer.leave for layer in app.layers)
        self.ongoing = 0
        self.connections: set[Connection] = set()
        self.is_draining = False
        self._servers: list[asyncio.Server] = []
        self._served_fields = served.encode_headers() if served else b""
        self._common_fields = (0, b"")

    async def start(self, host: str, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a port of an address, or on any free one; returns the port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self, loop), host, port, backlog=BACKLOG, ssl=tls)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def start_local(self, path: str) -> None:
        """Listen on a Unix socket as well, of this user alone."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(lambda: Connection(self, loop), path, backlog=BACKLOG))
        Path(path).chmod(0o600)

    async def drain(self, timeout_s: float) -> None:
        """Finish the requests that are inside, then close the port and every connection; for timeout_s at most.

        It returns when each connection is gone: the process ends then, and with it what a caller has not read yet.
        """
        deadline = time.monotonic() + timeout_s
        self.is_draining = True
        while self.ongoing and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.close()
        while self.connections and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)

    def encode_common_fields(self) -> bytes:
        """The header fields of every response, encoded once a second: `date`, and what is served."""
        now = int(time.time())
        if self._common_fields[0] != now:
            self._common_fields = now, f"date: {formatdate(now, usegmt=True)}\r\n".encode() + self._served_fields
        return self._common_fields[1]


def convert_to_origin_form(target: bytes) -> bytes:
    """Convert a target in absolute form to its path and query; `*` stays.

    Raises:
        HttpParserInvalidURLError: it has no valid host or port.
    """
    url = httptools.parse_url(target)
    path = url.path or b"/"
    return path if url.query is None else b"%b?%b" % (path, url.query)


class Connection(asyncio.Protocol):
    """One connection: parses requests, and answers one at a time in their order."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._parser: Any = httptools.HttpRequestParser(self)
        self._first_request: asyncio.TimerHandle | None = None
        # Requests that were parsed and not answered; only the first one runs.
        self._exchanges: deque[Exchange] = deque()
        self._receiving: Exchange | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._duplicates: list[tuple[bytes, bytes]] = []
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
        for exchange in list(self._exchanges):
            exchange.disconnect()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse_malformed()
        if len(self._exchanges) > 1:
            self._pause_reading()

    def _refuse_malformed(self) -> None:
        """Answer what is no HTTP, once; the connection ends with the last answer, since nothing more can be parsed."""
        receiving, self._receiving = self._receiving, None
        if not self._exchanges:
            # Without a request's header there is none, and one that was refused before its end has its answer.
            if receiving is None:
                self.transport.write(_MALFORMED)
            self.close()
        elif receiving is self._exchanges[0]:
            # Its body is none, or its trailers.
            receiving.cancel(ClientError(_MALFORMED_MESSAGE))
            # In the loop's next turn, as the response of one that has just been refused.
            self.loop.call_soon(self.close)
        else:
            self._exchanges[0].keep_alive = False
            self._pause_reading()

    def pause_writing(self) -> None:
        self.drained = asyncio.Event()

    def resume_writing(self) -> None:
        if self.drained:
            self.drained.set()
            self.drained = None

    async def wait_drained(self, stall_timeout_s: float | None) -> None:
        """Wait until the peer has read most of what was written.

        Raises:
            TimeoutError: it has read nothing for stall_timeout_s.
        """
        while self.drained:
            unread_bytes = self.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(stall_timeout_s):
                    await self.drained.wait()
            except TimeoutError:
                if self.transport.get_write_buffer_size() >= unread_bytes:
                    raise

    def _pause_reading(self) -> None:
        if not self._is_read_paused:
            self._is_read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_read_paused:
            self._is_read_paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Close the connection; what was written is still sent."""
        self.transport.close()

    # Called by httptools:

    def on_message_begin(self) -> None:
        self._target, self._headers, self._duplicates = b"", {}, []

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving:
            # A trailer: what it says comes after the layers have read the header.
            return
        name = name.lower()
        if name in self._headers:
            self._duplicates.append((name, value))
        else:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        if self._first_request:
            self._first_request.cancel()
            self._first_request = None
        if not self._target.startswith(b"/"):
            if self._target == b"*" and self._parser.get_method() == b"OPTIONS":
                self.transport.write(_PONG)
                self.close()
                return
            self._target = convert_to_origin_form(self._target)
        exchange = self._receiving = Exchange(self, self._parser, self._target, self._headers, self._duplicates)
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            exchange.begin()

    def on_body(self, body: bytes) -> None:
        if self._receiving:
            self._receiving.receive_body(body)

    def on_message_complete(self) -> None:
        if self._receiving:
            exchange, self._receiving = self._receiving, None
            if not self._parser.should_keep_alive():
                # Trailers may say so, and the parser takes no request after this one.
                exchange.keep_alive = False
            exchange.receive_end()

    def finish(self, exchange: Exchange) -> None:
        """Go on with the next request after a response, or close the connection."""
        self._exchanges.popleft()
        if not exchange.keep_alive or self.server.is_draining:
            if exchange.is_received:
                self.close()
            else:
                # A sender that is stuck in its body would not come to read the response.
                self._resume_reading()
                self.loop.call_later(LINGER_S, self.close)
            return
        if self._exchanges:
            self._exchanges[0].begin()
        if len(self._exchanges) <= 1:
            self._resume_reading()
