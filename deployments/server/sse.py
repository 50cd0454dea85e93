"""Server-sent events: a response that is sent while the output grows.

https://html.spec.whatwg.org/multipage/server-sent-events.html. The first event must come within
request_timeout_s, and nothing is sent before it, so that a refused request has its own status. From then on the stream
has stream_timeout_s, and an error is sent as an event. A caller that does not read for stream_stall_timeout_s loses the
connection, at the last event too. Does not know what the events contain.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping
from types import MappingProxyType

import msgspec

from deployments import errors
from deployments.errors import CallError, ClientDisconnected, ClientError, DeadlineExceeded
from deployments.observability.private_errors import describe_error
from deployments.protocols.predict.events import ERROR
from deployments.server.error_responses import INTERNAL_ERROR_MESSAGE
from deployments.server.request import Request

Event = tuple[str, bytes]
"""Its name, and its data as JSON, which has no line break."""

MEDIA_TYPE = b"text/event-stream"
# Proxies close a connection that is silent for long; 30 s and 60 s are common.
KEEP_ALIVE_S = 10.0

_HEADERS = [
    (b"content-type", MEDIA_TYPE + b"; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would buffer the events otherwise.
    (b"x-accel-buffering", b"no"),
]
logger = logging.getLogger("ray.serve")


class _StreamOption(msgspec.Struct):
    stream: bool = False


def wants_stream(request: Request) -> bool:
    """Whether a request wants events: by its Accept header, or by "stream": true in its body."""
    if MEDIA_TYPE in request.get_header(b"accept").lower():
        return True
    # Hardly any body contains it, so hardly any is decoded twice.
    if b'"stream"' not in request.body:
        return False
    try:
        return msgspec.json.decode(request.body, type=_StreamOption).stream
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


async def send_events(
    request: Request, events: AsyncGenerator[Event], headers: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Send events as they come; their source is closed at the end, also where the request is canceled.

    Args:
        request: to answer.
        events: of the response.
        headers: further ones, which are complete when the first event is here.

    Raises:
        ClientError: before the first event; afterwards it is an event itself.
    """
    limits = request.limits
    async with contextlib.aclosing(events):
        first = await anext(events)
        timeout_s = None if limits is None else limits.extend_deadline(request)
        stream = _Stream(request, None if limits is None else limits.stall_timeout_s)
        await stream.send(request.start(200, [*_HEADERS, *_encode_headers(headers)]))
        keep_alive_task = asyncio.create_task(_send_keep_alives(stream))
        try:
            async with asyncio.timeout(timeout_s):
                await stream.send_event(*first)
                async for name, data in events:
                    await stream.send_event(name, data)
        except ClientDisconnected:
            raise
        except Exception as error:
            await stream.send_event(ERROR, _encode_late_error(error, request, timeout_s))
        finally:
            keep_alive_task.cancel()
        await stream.send(request.end())


def _encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


class _Stream:
    """Sends the parts of a response; raises ClientDisconnected where its caller has stopped reading."""

    def __init__(self, request: Request, stall_timeout_s: float | None) -> None:
        self.request, self._stall_timeout_s = request, stall_timeout_s

    async def send(self, part: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await part
        except TimeoutError:
            raise ClientDisconnected(f"the caller has read nothing for {self._stall_timeout_s:g} s") from None

    async def send_event(self, name: str, data: bytes) -> None:
        await self.send(self.request.write(b"event: %b\ndata: %b\n\n" % (name.encode(), data)))


async def _send_keep_alives(stream: _Stream) -> None:
    while True:
        await asyncio.sleep(KEEP_ALIVE_S)
        await stream.send(stream.request.write(b": keep-alive\n\n"))


def _encode_late_error(error: Exception, request: Request, timeout_s: float | None) -> bytes:
    """Encode an error that comes too late for a status."""
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded(f"the stream did not end within {timeout_s:g} s; request fewer tokens or rows")
    if isinstance(error, ClientError):
        return errors.encode_error(error.code, error.message, request.request_id)
    logger.error("stream failed: %s\n%s", request.raw_path.decode("latin-1"), describe_error(error))
    return errors.encode_error(CallError.code, INTERNAL_ERROR_MESSAGE, request.request_id)
