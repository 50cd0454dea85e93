"""Server-sent events: a response that is sent while the output grows.

https://html.spec.whatwg.org/multipage/server-sent-events.html. The first event must come within
request_timeout_s, and nothing is sent before it, so that a refused request has its own status. From then on the stream
has stream_timeout_s, and an error is sent as an event. A caller that does not read for stream_stall_timeout_s loses the
connection, at the last event too. Does not know what the events contain.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

import msgspec

from deployments import errors
from deployments.errors import CallError, ClientDisconnected, ClientError, DeadlineExceeded
from deployments.protocols.predict.events import ERROR
from deployments.server.asgi import Message, Scope, Send, get_header
from deployments.server.error_responses import INTERNAL_ERROR_MESSAGE

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


def wants_stream(scope: Scope, body: bytes) -> bool:
    """Whether a request wants events: by its Accept header, or by "stream": true in its body."""
    if MEDIA_TYPE in get_header(scope, b"accept").lower():
        return True
    # Hardly any body contains it, so hardly any is decoded twice.
    if b'"stream"' not in body:
        return False
    try:
        return msgspec.json.decode(body, type=_StreamOption).stream
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


async def send_events(scope: Scope, send: Send, events: AsyncGenerator[Event]) -> None:
    """Send events as they come; their source is closed at the end, also where the request is canceled.

    Raises:
        ClientError: before the first event; afterwards it is an event itself.
    """
    async with contextlib.aclosing(events):
        first = await anext(events)
        limits = scope.get("request_limits")
        timeout_s = None if limits is None else limits.extend_deadline(asyncio.current_task())
        if limits is not None:
            send = _close_when_stalled(send, limits.stall_timeout_s)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        keep_alive_task = asyncio.create_task(_send_keep_alives(send))
        try:
            async with asyncio.timeout(timeout_s):
                await _send_event(send, *first)
                async for name, data in events:
                    await _send_event(send, name, data)
        except ClientDisconnected:
            raise
        except Exception as error:
            await _send_event(send, ERROR, _encode_late_error(error, scope, timeout_s))
        finally:
            keep_alive_task.cancel()
        await send({"type": "http.response.body", "body": b""})


def _close_when_stalled(send: Send, timeout_s: float) -> Send:
    """Raise ClientDisconnected where a message is not taken in time: its caller has stopped reading."""

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await send(message)
        except TimeoutError:
            raise ClientDisconnected(f"the caller has read nothing for {timeout_s:g} s") from None

    return send_in_time


async def _send_event(send: Send, name: str, data: bytes) -> None:
    event = b"event: %b\ndata: %b\n\n" % (name.encode(), data)
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _send_keep_alives(send: Send) -> None:
    while True:
        await asyncio.sleep(KEEP_ALIVE_S)
        await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})


def _encode_late_error(error: Exception, scope: Scope, timeout_s: float | None) -> bytes:
    """Encode an error that comes too late for a status."""
    request_id = get_header(scope, b"x-request-id").decode("latin-1") or None
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded(f"the stream did not end within {timeout_s:g} s; request fewer tokens or rows")
    if isinstance(error, ClientError):
        return errors.encode_error(error.code, error.message, request_id)
    logger.exception("stream failed: %s", scope["path"])
    return errors.encode_error(CallError.code, INTERNAL_ERROR_MESSAGE, request_id)
