"""The replica's HTTP server: applications that fail, and the end of the server."""

import asyncio
import json
import logging

import pytest

from deployments.server.asgi import Receive, Scope, Send
from deployments.server.http_server import HttpServer
from deployments.server.request import Request
from tests.deployments.server.apps import make_app, make_asgi_app, send_response
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import encode_request, open_raw

pytestmark = pytest.mark.anyio


async def test_an_application_that_fails_before_its_response_is_an_internal_error(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    caplog.set_level(logging.ERROR)
    server, port = await start_server(fail)
    async with open_raw(port) as connection:
        response = await connection.request("GET", "/path")
        assert (response.status, json.loads(response.body)["error"]["code"]) == (500, "internal")
        assert server.ongoing == 0
        assert (await connection.request("GET", "/path")).status == 500

    assert "request failed: GET /path" in caplog.text


async def test_a_response_that_breaks_off_does_not_look_complete(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.05)
        raise ZeroDivisionError

    server, port = await start_server(fail)
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/"))
        await connection.reader.readuntil(b"\r\n\r\n")
        assert await connection.read_chunk() == b"part"
        assert await connection.is_closed(2)

    assert server.ongoing == 0


@pytest.mark.parametrize("starts", [False, True])
async def test_a_handler_that_returns_too_early_has_failed(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, starts: bool
) -> None:
    async def stop(request: Request) -> None:
        if starts:
            await request.start(200, ())

    caplog.set_level(logging.ERROR)
    _, port = await start_server(make_app(stop))  # type: ignore[arg-type]
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/", b"", "connection: close"))
        rest = await connection.read_rest_or_reset()
        # What has begun has no end.
        assert rest.endswith(b"\r\n\r\n") if starts else rest.startswith(b"HTTP/1.1 500 ")

    assert "request failed" in caplog.text


async def test_the_next_connection_is_served_after_a_failure(start_server: StartServer) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            raise ZeroDivisionError
        await send_response(send, 200, b"ok")

    _, port = await start_server(app)
    async with open_raw(port) as first, open_raw(port) as second:
        assert (await first.request("GET", "/fail")).status == 500
        assert (await second.request("GET", "/")).body == b"ok"


async def answer_when_told(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(float(scope["path"][1:]))
    await send_response(send, 200, b"ok")


async def is_refused(port: int) -> bool:
    try:
        async with open_raw(port):
            return False
    except ConnectionRefusedError:
        return True


async def test_draining_finishes_what_is_inside_and_closes_the_rest(start_server: StartServer) -> None:
    server, port = await start_server(answer_when_told)
    async with open_raw(port) as busy, open_raw(port) as idle, open_raw(port) as unused:
        assert (await idle.request("GET", "/0")).status == 200
        await busy.send(encode_request("GET", "/0.3"))
        await asyncio.sleep(0.1)
        draining = asyncio.ensure_future(server.drain(5))
        response = await busy.read_response()
        await asyncio.wait_for(draining, 1)

        assert (response.body, response["connection"]) == (b"ok", "close")
        assert await busy.is_closed(1)
        assert await idle.is_closed(1)
        assert await unused.is_closed(1)
    assert await is_refused(port)
    assert not server.connections


async def test_a_request_that_comes_while_the_server_drains_is_answered(start_server: StartServer) -> None:
    server, port = await start_server(answer_when_told)
    async with open_raw(port) as busy, open_raw(port) as late:
        await busy.send(encode_request("GET", "/0.4"))
        await asyncio.sleep(0.05)
        draining = asyncio.ensure_future(server.drain(5))
        await asyncio.sleep(0.05)
        # An edge may have sent it before it learned that this replica leaves.
        response = await late.request("GET", "/0")
        assert (response.body, response["connection"]) == (b"ok", "close")
        assert await late.is_closed(1)
        assert (await busy.read_response()).body == b"ok"
        await draining


async def test_draining_ends_in_time_whatever_is_inside(start_server: StartServer) -> None:
    server, port = await start_server(answer_when_told)
    async with open_raw(port) as busy:
        await busy.send(encode_request("GET", "/60"))
        await asyncio.sleep(0.05)

        await asyncio.wait_for(server.drain(0.2), 1)

        assert await busy.is_closed(1)


async def test_an_idle_server_drains_at_once(start_server: StartServer) -> None:
    server, port = await start_server(answer_when_told)
    async with open_raw(port) as idle:
        await idle.request("GET", "/0")
        await asyncio.wait_for(server.drain(5), 0.5)
        assert await idle.is_closed(1)


async def test_each_request_is_counted_with_its_status_also_where_nobody_got_it() -> None:
    finished: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/gone":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send_response(send, 404, b"")

    server = HttpServer(make_asgi_app(app), lambda status, duration_s: finished.append(status))
    port = await server.start("127.0.0.1")
    async with open_raw(port) as connection:
        await connection.request("POST", "/", b"a")
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/gone"))
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    await server.drain(1)

    assert finished == [404, 499]
