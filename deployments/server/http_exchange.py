# ruff: noqa: D102 - methods of Request, documented there
"""HTTP exchange: one request on a connection, and its response.

Request walk: http_server.py -> [http_exchange.py] -> request.py -> middleware.py
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from deployments.errors import CallError, ClientDisconnected, ClientError, PayloadTooLarge, encode_error
from deployments.observability.private_errors import describe_error
from deployments.server.error_responses import INTERNAL_ERROR_MESSAGE
from deployments.server.request import Headers, Request, Response

if TYPE_CHECKING:
    from deployments.server.http_server import Connection

# nginx's status of a request whose caller left; nobody gets it, metrics count it.
CLIENT_DISCONNECTED = 499

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = (204, 304)
# Where the encoding of an error fails too.
_INTERNAL_ERROR = Response(CallError.status, encode_error(CallError.code, INTERNAL_ERROR_MESSAGE, None))
logger = logging.getLogger("ray.serve")


class Exchange(Request):
    """One request and its response."""

    # Defaults in the class, as in Request.
    is_received = _has_begun = _is_disconnected = False
    _is_refused = _is_chunked = _is_sent = _is_finished = _is_head_request = False
    _size = 0
    _started_s = 0.0
    status = CLIENT_DISCONNECTED
    _parts: list[bytes] | None = None
    _task: asyncio.Task[None] | None = None
    _cancellation: ClientError | None = None
    _closed: asyncio.Future[None] | None = None

    def __init__(
        self,
        connection: "Connection",
        parser: Any,
        target: bytes,
        headers: dict[bytes, bytes],
        duplicates: list[tuple[bytes, bytes]],
    ) -> None:
        method = parser.get_method().decode()
        if method == "HEAD":
            self._is_head_request, method = True, "GET"
        super().__init__(method, target, headers, duplicates, parser.get_http_version())
        self._connection, self.keep_alive = connection, parser.should_keep_alive()

    def begin(self) -> None:
        """Pass the layers; the handler runs once the body is here."""
        server = self._connection.server
        server.ongoing += 1
        self._started_s = time.perf_counter()
        self._has_begun = True
        try:
            for admit in server.admitting:
                admit(self)
            length = self.headers.get(b"content-length")
            if length is not None:
                self._check_size(int(length), "")
            self._check_size(self._size, "more than ")
        except Exception as error:
            self._refuse(error)
            return
        if self.is_received:
            self._run()
        elif self.headers.get(b"expect", b"").lower() == b"100-continue":
            self._connection.transport.write(_CONTINUE)

    def _refuse(self, error: Exception) -> None:
        """Respond with an error in the loop's next turn: where all of the request is here, its connection is kept."""
        self._is_refused = True
        self._connection.loop.call_soon(self._respond, self._encode_error(error))

    def _encode_error(self, error: Exception) -> Response:
        try:
            return self._connection.server.app.encode_error(self, error)
        except Exception as encoding_error:
            # A request that is never answered would hold its slot for ever.
            logger.error("encoding of an error failed: %s\n%s", describe_error(error), describe_error(encoding_error))
            return _INTERNAL_ERROR

    def receive_body(self, body: bytes) -> None:
        """Take bytes of the body from the parser."""
        if self._is_sent or self._is_refused:
            return  # nobody reads it any more
        self._size += len(body)
        if not self.body:
            self.body = body
        elif self._parts is None:
            self._parts = [self.body, body]
        else:
            self._parts.append(body)
        if self._has_begun:
            try:
                self._check_size(self._size, "more than ")
            except PayloadTooLarge as error:
                self._respond(self._encode_error(error))

    def receive_end(self) -> None:
        """Take the end of the body from the parser."""
        self.is_received = True
        if self._is_sent:
            if not self.keep_alive:
                self._connection.close()
        elif self._has_begun and not self._is_refused:
            self._run()

    def _check_size(self, size: int, prefix: str) -> None:
        limit = self._connection.server.app.max_body_bytes
        if size > limit:
            self.body, self._parts = b"", None
            raise PayloadTooLarge(f"the body has {prefix}{limit if prefix else size} bytes; the limit is {limit}")

    def _run(self) -> None:
        if self._parts is not None:
            self.body, self._parts = b"".join(self._parts), None
        connection = self._connection
        try:
            response = connection.server.app.handler(self)
        except Exception as error:
            self._refuse(error)
            return
        if response is not None:
            self._task = connection.loop.create_task(self._answer(response))
            self._task.add_done_callback(partial(self._end_task, response))

    async def _answer(self, awaitable: Awaitable[Response | None]) -> None:
        try:
            response = await awaitable
        except asyncio.CancelledError:
            if self._cancellation is None or self._task is None:
                self._finish()
                raise  # canceled by something else
            self._task.uncancel()
            self._fail(self._cancellation)
        except Exception as error:
            self._fail(error)
        else:
            if response is not None:
                self._respond(response)
            elif self._is_sent or self._is_disconnected:
                self._finish()
            else:
                self._fail(RuntimeError("the handler returned before its response was complete"))

    def _end_task(self, awaitable: Awaitable[Response | None], task: asyncio.Task[None]) -> None:
        """End a request that its task has not: canceled before its first step, or its response cannot be encoded."""
        error = None if task.cancelled() else task.exception()
        if self._is_sent or self._is_finished:
            return
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        if self._cancellation is not None:
            self._fail(self._cancellation)
        else:
            self._fail(error if isinstance(error, Exception) else RuntimeError("the request's task was canceled"))

    def respond(self, response: Response) -> None:
        if self._cancellation is None:
            self._respond(response)

    def fail(self, error: Exception) -> None:
        if self._cancellation is None:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Answer with an error, or break the connection off where a response has begun."""
        response = self._encode_error(error)
        if self.is_started:
            self._finish()
        else:
            self._respond(response)

    def _respond(self, response: Response) -> None:
        """Send a complete response; the request is at its end."""
        if not self._is_disconnected:
            self.status = status = response.status
            body, content_type = response.body, response.content_type
            fields = b"" if status in _BODILESS else b"content-length: %d\r\n" % len(body)
            if content_type:
                fields = b"content-type: %b\r\n%b" % (content_type, fields)
            if self.usage is not None:
                # Before it is sent: what a caller has must have been counted.
                self.usage.bytes_in, self.usage.bytes_out = self._size, len(body)
                self.usage.write(status)
            head = self._encode_head(status, fields, response.headers)
            self.is_started = self._is_sent = True
            self._connection.transport.write(head if self._is_head_request else head + body)
            if self._connection.drained:
                self._task = self._connection.loop.create_task(self._finish_when_read())
                return
        self._finish()

    async def _finish_when_read(self) -> None:
        """Keep the slot of a large response until most of it is read: unread ones would take memory without a limit."""
        limits = self.limits
        timeout_s = None if limits is None else limits.extend_deadline(self)
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.wait_drained(None if limits is None else limits.stall_timeout_s)
        except TimeoutError:
            self._is_disconnected = True
        self._finish()

    def _encode_head(self, status: int, fields: bytes, headers: Headers) -> bytes:
        if not self.is_received:
            self.keep_alive = False
        server = self._connection.server
        for name, value in headers:
            fields += b"%b: %b\r\n" % (name, value)
        if self.charge is not None and status < 400:
            for name, value in self.charge.encode_fields():
                fields += b"%b: %b\r\n" % (name, value)
        if not self.keep_alive or server.is_draining:
            fields += b"connection: close\r\n"
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"%b%b%b\r\n" % (line, fields, server.encode_common_fields())

    async def start(self, status: int, headers: Headers) -> None:
        fields = b""
        if status not in _BODILESS and all(name != b"content-length" for name, _ in headers):
            if self.http_version == "1.1":
                self._is_chunked = True
                fields = b"transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False
        self.is_started, self.status = True, status
        if not self._is_disconnected:
            self._connection.transport.write(self._encode_head(status, fields, headers))

    async def write(self, part: bytes) -> None:
        if self._is_disconnected or not part or self._is_head_request:
            return
        if self.usage is not None:
            self.usage.bytes_in, self.usage.bytes_out = self._size, self.usage.bytes_out + len(part)
        self._connection.transport.write(b"%x\r\n%b\r\n" % (len(part), part) if self._is_chunked else part)
        if self._connection.drained:
            await self._connection.drained.wait()

    async def end(self) -> None:
        if self._is_disconnected:
            return
        self._is_sent = True
        if self.usage is not None:
            self.usage.write(self.status)
        if self._is_chunked and not self._is_head_request:
            self._connection.transport.write(b"0\r\n\r\n")
        if self._connection.drained:
            await self._connection.drained.wait()

    def cancel(self, error: ClientError) -> None:
        if self._cancellation is not None or self._is_sent or self._is_refused:
            return
        self._cancellation = error
        if self._task is not None:
            self._task.cancel()
        else:
            if self.on_cancel is not None:
                self.on_cancel()
            self._respond(self._encode_error(error))

    def disconnect(self) -> None:
        """The connection is gone."""
        self._is_disconnected = True
        self._close()
        if self._has_begun and not self._is_refused:
            self.cancel(ClientDisconnected("the caller closed the connection"))

    async def wait_closed(self) -> None:
        if not self._is_sent and not self._is_disconnected:
            self._closed = self._closed or self._connection.loop.create_future()
            await self._closed

    def _close(self) -> None:
        if self._closed and not self._closed.done():
            self._closed.set_result(None)

    def _finish(self) -> None:
        """The end of the request, however it came."""
        self._is_finished = True
        server = self._connection.server
        server.ongoing -= 1
        # What it refers to may refer to this request.
        self.on_cancel = None
        for leave in server.leaving:
            leave(self)
        server.on_finished(self.method, self.status, time.perf_counter() - self._started_s)
        if self._closed:
            self._close()
        if self._is_sent and not self._is_disconnected:
            self._connection.finish(self)
        else:
            # A response that breaks off must not look complete.
            self._connection.transport.abort()
