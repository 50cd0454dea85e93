"""The replica's HTTP server: bodies of requests and responses, and how fast they are taken."""

import asyncio

import pytest

from deployments.errors import PayloadTooLarge
from deployments.server import http_server
from deployments.server.asgi import Receive, Scope, Send
from deployments.server.request import Request, Response
from tests.deployments.server.apps import echo, make_app, send_response
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import RawConnection, encode_request, open_raw

pytestmark = pytest.mark.anyio
MIB = 1024**2
CHUNKED = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"


class Refuse:
    """A layer that refuses every request by its header."""

    def admit(self, request: Request) -> None:
        raise PayloadTooLarge("too large")

    def leave(self, request: Request) -> None:
        pass


REFUSING = make_app(echo, Refuse())


async def test_a_chunked_body_arrives_whole(start_server: StartServer) -> None:
    _, port = await start_server(make_app(echo))
    async with open_raw(port) as connection:
        for _ in range(2):
            await connection.send(CHUNKED + b"3\r\nabc\r\n")
            await asyncio.sleep(0.02)
            await connection.send(b"2;extension=1\r\nde\r\n0\r\ntrailer: x\r\n\r\n")
            assert (await connection.read_response()).body == b"abcde"


async def test_a_caller_that_waits_for_100_continue_gets_it_once_the_body_is_wanted(start_server: StartServer) -> None:
    _, port = await start_server(make_app(echo))
    async with open_raw(port) as connection:
        for _ in range(2):
            await connection.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            assert (await connection.read_response()).status == 100
            await connection.send(b"ab")
            assert (await connection.read_response()).body == b"ab"
        # It is the answer to one request.
        assert (await connection.request("POST", "/", b"c")).body == b"c"


async def test_a_caller_that_waits_for_100_continue_may_be_refused_instead(start_server: StartServer) -> None:
    _, port = await start_server(REFUSING)
    async with open_raw(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        response = await connection.read_response()

    assert (response.status, b"too large" in response.body, response["connection"]) == (413, True, "close")


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_head_has_the_header_and_no_body(start_server: StartServer, is_chunked: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if is_chunked else [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        response = await connection.request("HEAD", "/")
        assert response.status == 200
        assert response["content-length"] == ("" if is_chunked else "3")
        assert (await connection.request("GET", "/")).body == b"abc"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_neither_length_nor_chunks(start_server: StartServer, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        for _ in range(2):
            response = await connection.request("GET", "/")
            assert response.status == status
            assert not {"content-length", "transfer-encoding"} & {name for name, _ in response.headers}


async def test_an_unusual_status_is_sent_as_it_is(start_server: StartServer) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 499, b"x")

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        assert (await connection.request("GET", "/")).status == 499


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413), (32 * MIB, 413)])
async def test_a_body_over_the_limit_is_refused_and_the_refusal_is_not_lost(
    start_server: StartServer, is_chunked: bool, size: int, status: int
) -> None:
    server, port = await start_server(make_app(echo, max_body_bytes=1000))
    body = bytes(size)
    request = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if is_chunked else encode_request("POST", "/", body)
    async with open_raw(port) as connection:
        # As a caller that sends all of it before it reads.
        await asyncio.wait_for(connection.send(request), 10)
        response = await connection.read_response()
        assert response.status == status
        if status == 413:
            assert b"1000" in response.body
    await asyncio.sleep(0.01)
    assert server.ongoing == 0


async def test_a_request_that_a_layer_refuses_leaves_the_connection_open(start_server: StartServer) -> None:
    server, port = await start_server(REFUSING)
    async with open_raw(port) as connection:
        for _ in range(3):
            response = await connection.request("POST", "/", b"abc")
            assert (response.status, "connection" in response) == (413, False)
    assert server.ongoing == 0


async def test_a_caller_that_goes_while_it_is_refused_is_counted_once(start_server: StartServer) -> None:
    server, port = await start_server(REFUSING)
    async with open_raw(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
        connection.writer.transport.abort()
    await asyncio.sleep(0.05)
    assert server.ongoing == 0


async def test_a_caller_that_never_ends_its_refused_body_is_closed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "LINGER_S", 0.2)
    server, port = await start_server(REFUSING)
    async with open_raw(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
        assert (await connection.read_response()).status == 413
        await connection.send(b"a")
        assert await connection.is_closed(2)
    assert server.ongoing == 0


async def test_an_unread_body_that_is_complete_leaves_the_connection_open(start_server: StartServer) -> None:
    async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await send_response(send, 200, scope["path"].encode())

    _, port = await start_server(ignore)
    async with open_raw(port) as connection:
        for path in ("/a", "/b"):
            response = await connection.request("POST", path, b"x" * 100)
            assert (response.body, "connection" in response) == (path.encode(), False)


async def test_a_stream_comes_in_chunks_as_they_are_sent(start_server: StartServer) -> None:
    may_go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await may_go_on.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/"))
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert await connection.read_chunk() == b"first"
        may_go_on.set()
        assert [await connection.read_chunk() for _ in range(2)] == [b"last", None]
        assert (await connection.request("GET", "/")).body == b"firstlast"


async def test_the_application_waits_for_a_reader_that_is_slow(start_server: StartServer) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/"))
        await asyncio.sleep(0.5)
        assert sent < 20
        response = await connection.read_response()

    assert (len(response.body), sent) == (64 * MIB, 64)


async def disconnect(connection: RawConnection) -> None:
    connection.close()
    await connection.writer.wait_closed()


async def test_a_handler_is_canceled_when_its_caller_disconnects(start_server: StartServer) -> None:
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def handler(request: Request) -> Response:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.put_nowait("canceled")
            raise
        return Response(200, b"never")

    server, port = await start_server(make_app(handler))
    async with open_raw(port) as connection:
        await connection.send(encode_request("POST", "/", b"ab"))
        await asyncio.sleep(0.05)
        assert server.ongoing == 1
        await disconnect(connection)
        assert await asyncio.wait_for(ends.get(), 2) == "canceled"
    await asyncio.sleep(0.01)
    assert (server.ongoing, len(server.connections)) == (0, 0)


async def test_a_handler_does_not_run_where_its_caller_disconnects_within_the_body(start_server: StartServer) -> None:
    calls: list[Request] = []

    async def handler(request: Request) -> Response:
        calls.append(request)
        return Response(200, b"")

    server, port = await start_server(make_app(handler))
    async with open_raw(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nab")
        await asyncio.sleep(0.05)
        assert server.ongoing == 1
        await disconnect(connection)
    await asyncio.sleep(0.05)
    assert (server.ongoing, calls) == (0, [])


async def test_a_reader_that_has_gone_does_not_block_the_application(start_server: StartServer) -> None:
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(64):
                await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
        finally:
            ends.put_nowait("ended")

    server, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/"))
        await asyncio.sleep(0.2)
        assert ends.empty()
        connection.writer.transport.abort()

        await asyncio.wait_for(ends.get(), 2)
    await asyncio.sleep(0.01)
    assert server.ongoing == 0
