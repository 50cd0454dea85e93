"""Event streams, and callers that disconnect, over a real HTTP server."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from deployments.errors import EmptyRequest, NotStreamable
from deployments.server import sse
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.server.sse import Event, send_events, wants_stream
from deployments.settings import Limits
from tests.deployments.local_server import run_http_server
from tests.deployments.server.apps import make_app
from tests.deployments.server.captured_request import CapturedRequest

Source = Callable[[], AsyncGenerator[Event]]


class Counter:
    """Counts to a thousand, one event every 10 ms; records its progress and its end."""

    def __init__(self, fail_at: int = 1001, wait_s: float = 0.01) -> None:
        self.sent, self.fail_at, self.wait_s = 0, fail_at, wait_s
        self.closed = threading.Event()

    async def __call__(self) -> AsyncGenerator[Event]:
        try:
            while self.sent < 1000:
                await asyncio.sleep(self.wait_s)
                if self.sent == self.fail_at:
                    raise EmptyRequest("no rows") if self.fail_at % 2 else ZeroDivisionError("secret detail")
                self.sent += 1
                yield "token", b"%d" % self.sent
        finally:
            self.closed.set()


def make_stream(source: Source, **limits: float) -> HttpApp:
    async def stream(request: Request) -> None:
        await send_events(request, source())

    return make_app(stream, RequestLimits(Limits(**limits)))  # type: ignore[arg-type]


@contextlib.contextmanager
def open_stream(url: str, **headers: str) -> Iterator[tuple[httpx.Response, Iterator[ServerSentEvent]]]:
    with httpx.Client(timeout=10) as http, http.stream("POST", f"{url}/api/predict", headers=headers) as response:
        yield response, EventSource(response).iter_sse()


def test_events_arrive_while_the_rest_is_still_to_come() -> None:
    counter = Counter()
    with run_http_server(make_stream(counter)) as url, open_stream(url) as (response, events):
        first = next(events)

        assert (first.event, first.data) == ("token", "1")
        assert counter.sent < 100
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"


def test_closing_the_connection_closes_the_source() -> None:
    counter = Counter()
    with run_http_server(make_stream(counter)) as url:
        with open_stream(url) as (_, events):
            next(events)
        assert counter.closed.wait(2)
        assert counter.sent < 100


def test_a_disconnect_before_the_first_event_closes_the_source_too() -> None:
    counter = Counter(wait_s=5.0)
    with run_http_server(make_stream(counter)) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/api/predict", timeout=0.2)
        assert counter.closed.wait(2)


@pytest.mark.parametrize(("fail_at", "code"), [(3, "empty_request"), (4, "internal")])
def test_an_error_after_the_first_event_is_the_last_event(fail_at: int, code: str) -> None:
    with (
        run_http_server(make_stream(Counter(fail_at))) as url,
        open_stream(url, **{"x-request-id": "r1"}) as (response, events),
    ):
        *tokens, last = list(events)

    assert response.status_code == 200
    assert [token.data for token in tokens] == [str(n + 1) for n in range(fail_at)]
    assert last.event == "error"
    assert last.json()["error"].keys() == {"code", "message", "request_id"}
    assert (last.json()["error"]["code"], last.json()["error"]["request_id"]) == (code, "r1")
    assert "secret" not in last.data


@contextlib.contextmanager
def open_stalled(url: str) -> Iterator[socket.socket]:
    """A caller that sends a request for events and reads nothing."""
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        yield connection


class LargeEvents:
    """Events of 4 MB, of which no more than some fit into the buffers of a connection."""

    def __init__(self, count: int) -> None:
        self.count, self.sent, self.closed = count, 0, threading.Event()

    async def __call__(self) -> AsyncGenerator[Event]:
        try:
            while self.sent < self.count:
                self.sent += 1
                yield "token", b"x" * 2**22
        finally:
            self.closed.set()


# The second source ends with the event that nobody reads.
@pytest.mark.parametrize("count", [1000, 1])
def test_a_caller_that_stops_reading_is_dropped(count: int) -> None:
    source, ended = LargeEvents(count), threading.Event()
    app = make_stream(source, stream_stall_timeout_s=0.5)

    class Watch:
        def admit(self, request: Request) -> None:
            pass

        def leave(self, request: Request) -> None:
            ended.set()

    app.layers = (*app.layers, Watch())
    with run_http_server(app) as url, open_stalled(url):
        assert ended.wait(5)
    assert source.closed.is_set()
    assert source.sent <= 4


def test_a_slow_reader_gets_all_of_its_events() -> None:
    source = LargeEvents(3)
    with run_http_server(make_stream(source, stream_stall_timeout_s=2)) as url, open_stalled(url) as connection:
        received, paused_at = 0, 2**20
        while chunk := connection.recv(2**20):
            received += len(chunk)
            if received > paused_at:
                time.sleep(0.05)
                paused_at += 2**20
            if received > 3 * 2**22:
                break

    assert received > 3 * 2**22


async def refuse() -> AsyncGenerator[Event]:
    raise NotStreamable("no")
    yield


def test_an_error_before_the_first_event_has_its_own_status() -> None:
    with run_http_server(make_stream(refuse)) as url:
        response = httpx.post(f"{url}/api/predict")

    assert response.status_code == 406
    assert response.json()["error"]["code"] == "not_streamable"


def test_a_first_event_that_takes_too_long_is_a_504() -> None:
    counter = Counter(wait_s=5.0)
    with run_http_server(make_stream(counter, request_timeout_s=0.1)) as url:
        response = httpx.post(f"{url}/api/predict")

    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert counter.closed.is_set()


def test_a_stream_that_has_begun_has_its_own_timeout() -> None:
    start = time.monotonic()
    with (
        run_http_server(make_stream(Counter(), request_timeout_s=0.1, stream_timeout_s=0.5)) as url,
        open_stream(url) as (_, events),
    ):
        *_, last = list(events)

    assert last.event == "error"
    assert json.loads(last.data)["error"]["code"] == "deadline_exceeded"
    assert time.monotonic() - start >= 0.5


def test_a_silent_stream_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)
    counter = Counter(fail_at=3, wait_s=0.1)
    with run_http_server(make_stream(counter)) as url:
        text = httpx.post(f"{url}/api/predict").text

    assert text.count(": keep-alive\n\n") >= 3
    assert text.count("event: token\n") == 3


def test_a_request_is_canceled_when_its_caller_disconnects() -> None:
    started, ended = threading.Event(), threading.Event()

    async def work() -> bytes:
        try:
            started.set()
            await asyncio.sleep(30)
        finally:
            ended.set()
        return b"never"

    async def handler(request: Request) -> Response:
        return Response(200, await work())

    with run_http_server(make_app(handler, RequestLimits(Limits()))) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/api/predict", timeout=0.2)
        assert started.is_set()
        assert ended.wait(2)


@pytest.mark.parametrize(
    ("accept", "body", "expected"),
    [
        (b"*/*", b'{"inputs": []}', False),
        (b"text/event-stream", b"{}", True),
        (b"application/json, text/event-stream;q=0.5", b"{}", True),
        (b"*/*", b'{"inputs": [], "stream": true}', True),
        (b"*/*", b'{"inputs": [], "stream": false}', False),
        (b"*/*", b'{"inputs": ["stream"]}', False),
        (b"*/*", b'{"stream": "yes"}', False),
        (b"*/*", b'\x89PNG "stream"', False),
    ],
)
def test_a_stream_is_requested_by_a_header_or_in_the_body(accept: bytes, body: bytes, expected: bool) -> None:
    assert wants_stream(CapturedRequest("/", body, [(b"accept", accept)])) is expected
