"""The replica's HTTP server: requests that would keep their slot for ever, or change after their admission."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from deployments.access.authorization import Authorization
from deployments.server.http_exchange import Exchange
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp, compose_http
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.settings import Limits
from tests.deployments.callers import TESTER, encode_caller
from tests.deployments.server.apps import make_app
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import encode_request, open_raw

pytestmark = pytest.mark.anyio
SECRET = "of the edge"


def count_slots(server: HttpServer) -> int:
    """Requests that hold a slot."""
    (limits,) = (layer for layer in server.app.layers if isinstance(layer, RequestLimits))
    return len(limits._deadlines_s)


async def wait_idle(server: HttpServer) -> None:
    """Wait until no request is inside."""
    async with asyncio.timeout(5):
        while server.ongoing or count_slots(server):
            await asyncio.sleep(0.01)


async def describe(request: Request) -> Response:
    fields = {name.decode(): value.decode() for name, value in (*request.headers.items(), *request.duplicates)}
    return Response(200, json.dumps({"path": request.path, "caller": request.caller.name, "headers": fields}).encode())


@pytest.mark.parametrize("host", ["h_x:8000", "h:99999", "h:", "a@b@h", "[::1", ""])
@pytest.mark.parametrize("secret", [SECRET, "guess"])
async def test_a_target_that_cannot_be_parsed_is_refused_and_keeps_no_slot(
    start_server: StartServer, host: str, secret: str
) -> None:
    server, port = await start_server(compose_http(describe, Limits(), SECRET, Authorization()))
    async with open_raw(port) as connection:
        response = await connection.request("GET", f"http://{host}/v2/health/live", b"", f"x-shoal-edge: {secret}")
        assert await connection.is_closed(2)

    assert (response.status, json.loads(response.body)["error"]["code"]) == (400, "bad_request")
    await wait_idle(server)


class BrokenApp(HttpApp):
    """Cannot encode an error."""

    def encode_error(self, request: Request, error: Exception) -> Response:
        raise ValueError("not encodable")


@pytest.mark.parametrize("has_task", [False, True])
async def test_an_error_that_cannot_be_encoded_is_answered_500(start_server: StartServer, has_task: bool) -> None:
    async def fail_later() -> Response:
        raise ZeroDivisionError

    def fail(request: Request) -> Awaitable[Response | None]:
        return fail_later() if has_task else 1 / 0  # type: ignore[return-value]

    server, port = await start_server(BrokenApp(fail, (RequestLimits(Limits()),), 1000))
    async with open_raw(port) as connection:
        for _ in range(2):
            response = await connection.request("POST", "/", b"a")
            assert (response.status, json.loads(response.body)["error"]["code"]) == (500, "internal")
    await wait_idle(server)


async def test_a_response_that_cannot_be_encoded_is_answered_500(start_server: StartServer) -> None:
    async def handle(request: Request) -> Response:
        return Response(200, b"", headers=[(b"x-a", "no bytes")])  # type: ignore[list-item]

    server, port = await start_server(make_app(handle, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        for _ in range(2):
            assert (await connection.request("POST", "/", b"a")).status == 500
    await wait_idle(server)


@pytest.mark.filterwarnings("error")
async def test_a_request_that_is_canceled_before_its_tasks_first_step_is_answered(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, run = 0, Exchange._run

    def run_late(exchange: Exchange) -> None:
        """The deadline's timer is due in the same turn of the loop as the end of the body."""
        run(exchange)
        (limits,) = (layer for layer in exchange._connection.server.app.layers if isinstance(layer, RequestLimits))
        limits._deadlines_s[exchange] = 0.0
        limits._check_deadlines(asyncio.get_running_loop())

    async def handle(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return Response(200, b"")

    server, port = await start_server(make_app(handle, RequestLimits(Limits())))
    monkeypatch.setattr(Exchange, "_run", run_late)
    async with open_raw(port) as connection:
        for _ in range(2):
            assert (await connection.request("POST", "/", b"a")).status == 504
    await wait_idle(server)
    assert calls == 0


async def test_a_caller_that_leaves_before_its_tasks_first_step_keeps_no_slot(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Exchange._run

    def run_and_disconnect(exchange: Exchange) -> None:
        run(exchange)
        exchange.disconnect()

    server, port = await start_server(make_app(describe, RequestLimits(Limits())))
    monkeypatch.setattr(Exchange, "_run", run_and_disconnect)
    async with open_raw(port) as connection:
        await connection.send(encode_request("POST", "/", b"a"))
        assert await connection.is_closed(2)
    await wait_idle(server)


async def test_trailers_change_nothing(start_server: StartServer) -> None:
    _, port = await start_server(compose_http(describe, Limits(), SECRET, Authorization()))
    admin = encode_caller("root/root")
    trailers = f"content-encoding: gzip\r\ninference-header-content-length: 9\r\nx-shoal-caller: {admin}\r\nx-a: 2\r\n"
    sender = (f"x-shoal-edge: {SECRET}", f"x-shoal-caller: {TESTER}")
    fields = ["host: test", *sender, "x-a: 1", "transfer-encoding: chunked"]
    expected: dict[str, Any] = {name: value for name, _, value in (field.partition(": ") for field in fields)}
    async with open_raw(port) as connection:
        for _ in range(2):
            head = "\r\n".join(["POST /p HTTP/1.1", *fields, "", ""])
            await connection.send(f"{head}1\r\na\r\n0\r\n{trailers}\r\n".encode())
            content = json.loads((await connection.read_response()).body)
            assert content == {"path": "/p", "caller": "default/tester", "headers": expected}


def encode_chunked(trailers: str, *fields: str) -> bytes:
    """A request with a chunked body, and what comes behind the last chunk."""
    head = "\r\n".join(["POST /p HTTP/1.1", "host: test", *fields, "transfer-encoding: chunked", "", ""])
    return f"{head}1\r\na\r\n0\r\n{trailers}\r\n".encode()


@pytest.mark.parametrize("trailer", ["connection: close", "proxy-connection: close", "Connection: x, close"])
async def test_a_trailer_that_ends_the_connection_does_not_spoil_it_for_the_next_request(
    start_server: StartServer, trailer: str
) -> None:
    server, port = await start_server(make_app(describe, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        await connection.send(encode_chunked(f"{trailer}\r\n"))
        response = await connection.read_response()

        # An edge that was not told so would send another caller's request, which the parser takes no more.
        assert (response.status, response["connection"]) == (200, "close")
        assert await connection.is_closed(2)
    await wait_idle(server)


@pytest.mark.parametrize("trailer", ["content-length: 3", "transfer-encoding: chunked", "a\x01b: c", "no colon"])
async def test_trailers_that_are_no_http_get_a_status(start_server: StartServer, trailer: str) -> None:
    server, port = await start_server(make_app(describe, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        await connection.send(encode_chunked(f"{trailer}\r\n"))
        response = await connection.read_response()
        assert await connection.is_closed(2)

    assert (response.status, json.loads(response.body)["error"]["code"]) == (400, "bad_request")
    await wait_idle(server)


async def test_a_body_that_is_no_http_gets_one_response(start_server: StartServer) -> None:
    server, port = await start_server(make_app(describe, RequestLimits(Limits()), max_body_bytes=10))
    head = b"POST /p HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n"
    for chunk, status in ((b"a\r\n", 400), (b"14\r\n" + bytes(20) + b"\r\n", 413)):
        async with open_raw(port) as connection:
            await connection.send(head + chunk)
            await asyncio.sleep(0.05)
            await connection.send(b"zz\r\nno length of a chunk\r\n")
            response = await connection.read_response()
            assert response.status == status
            assert await connection.is_closed(5)
    await wait_idle(server)


async def test_what_is_no_http_leaves_the_request_before_it_its_response(start_server: StartServer) -> None:
    async def answer_later(request: Request) -> Response:
        await asyncio.sleep(0.1)
        return Response(200, b"ok")

    server, port = await start_server(make_app(answer_later, RequestLimits(Limits())))
    for rest in (b"no request\r\n\r\n", encode_chunked("content-length: 3\r\n")):
        async with open_raw(port) as connection:
            await connection.send(encode_request("POST", "/p", b"a") + rest)
            response = await connection.read_response()
            assert (response.status, response["connection"]) == (200, "close")
            assert await connection.is_closed(2)
    await wait_idle(server)
