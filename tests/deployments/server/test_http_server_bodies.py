"""The replica's HTTP server: bodies of requests and responses, and how fast they are taken."""

import asyncio

import pytest

from deployments.server import http_server
from deployments.server.asgi import Message, Receive, Scope, Send, send_response
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import RawConnection, encode_request, open_raw

pytestmark = pytest.mark.anyio
MIB = 1024**2
CHUNKED = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"


async def read_body(receive: Receive) -> bytes:
    body, more_body = b"", True
    while more_body:
        message = await receive()
        body, more_body = body + message.get("body", b""), message.get("more_body", False)
    return body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await send_response(send, 200, await read_body(receive))


async def test_a_chunked_body_arrives_whole(start_server: StartServer) -> None:
    _, port = await start_server(echo)
    async with open_raw(port) as connection:
        for _ in range(2):
            await connection.send(CHUNKED + b"3\r\nabc\r\n")
            await asyncio.sleep(0.02)
            await connection.send(b"2;extension=1\r\nde\r\n0\r\ntrailer: x\r\n\r\n")
            assert (await connection.read_response()).body == b"abcde"


async def test_a_caller_that_waits_for_100_continue_gets_it_once_the_body_is_wanted(start_server: StartServer) -> None:
    _, port = await start_server(echo)
    async with open_raw(port) as connection:
        for _ in range(2):
            await connection.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            assert (await connection.read_response()).status == 100
            await connection.send(b"ab")
            assert (await connection.read_response()).body == b"ab"
        # It is the answer to one request.
        assert (await connection.request("POST", "/", b"c")).body == b"c"


async def test_a_caller_that_waits_for_100_continue_may_be_refused_instead(start_server: StartServer) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 413, b"too large")

    _, port = await start_server(refuse)
    async with open_raw(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        response = await connection.read_response()

    assert (response.status, response.body, response["connection"]) == (413, b"too large", "close")


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


async def test_a_body_is_read_no_faster_than_the_application_takes_it(start_server: StartServer) -> None:
    may_read, sizes = asyncio.Event(), list[int]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_read.wait()
        more_body = True
        while more_body:
            message = await receive()
            sizes.append(len(message["body"]))
            more_body = message["more_body"]
            await asyncio.sleep(0)
        await send_response(send, 200, b"%d" % sum(sizes))

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        sending = asyncio.ensure_future(connection.send(encode_request("POST", "/", bytes(64 * MIB))))
        await asyncio.sleep(0.5)
        # Only the kernel's buffers and MAX_WAITING_BODY are full.
        assert not sending.done()
        may_read.set()
        response = await connection.read_response()
        await sending

    assert response.body == b"%d" % (64 * MIB)
    assert max(sizes) < http_server.MAX_WAITING_BODY + MIB


async def test_a_slow_body_in_small_chunks_is_read_no_faster_either(start_server: StartServer) -> None:
    may_read = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_read.wait()
        await send_response(send, 200, b"%d" % len(await read_body(receive)))

    _, port = await start_server(app)
    chunk = b"400\r\n" + bytes(1024) + b"\r\n"
    async with open_raw(port) as connection:
        sending = asyncio.ensure_future(connection.send(CHUNKED + chunk * 20_000 + b"0\r\n\r\n"))
        await asyncio.sleep(0.5)
        assert not sending.done()
        may_read.set()
        assert (await connection.read_response()).body == b"%d" % (20_000 * 1024)
        await sending


@pytest.mark.parametrize("delay_s", [0, 0.3])
async def test_a_response_before_the_end_of_the_body_is_not_lost(start_server: StartServer, delay_s: float) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        # Meanwhile the body fills every buffer.
        await asyncio.sleep(delay_s)
        await send_response(send, 413, b"too large")

    _, port = await start_server(refuse)
    async with open_raw(port) as connection:
        # As a caller that sends all of it before it reads.
        await asyncio.wait_for(connection.send(encode_request("POST", "/", bytes(32 * MIB))), 10)
        response = await connection.read_response()
        assert (response.status, response.body, response["connection"]) == (413, b"too large", "close")
        assert await connection.is_closed(http_server.LINGER_S + 2)


async def test_a_caller_that_never_ends_its_refused_body_is_closed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 413, b"too large")

    monkeypatch.setattr(http_server, "LINGER_S", 0.2)
    server, port = await start_server(refuse)
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


async def test_the_application_sees_that_its_caller_has_gone(start_server: StartServer) -> None:
    messages: list[Message] = []
    is_done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.extend([await receive(), await receive(), await receive()])
        # Nobody hears it, and nothing fails.
        await send_response(send, 200, b"late")
        is_done.set()

    server, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(encode_request("POST", "/", b"ab"))
        await asyncio.sleep(0.05)
        assert len(messages) == 0
        await disconnect(connection)
        await asyncio.wait_for(is_done.wait(), 2)

    assert [message["type"] for message in messages] == ["http.request", "http.disconnect", "http.disconnect"]
    await asyncio.sleep(0.01)
    assert (server.ongoing, len(server.connections)) == (0, 0)


async def test_the_application_sees_that_its_caller_has_gone_within_the_body(start_server: StartServer) -> None:
    ends: asyncio.Queue[Message] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"ab", "more_body": True}
        ends.put_nowait(await receive())

    server, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nab")
        await asyncio.sleep(0.05)
        await disconnect(connection)

        assert (await asyncio.wait_for(ends.get(), 2))["type"] == "http.disconnect"
    assert server.ongoing == 0


async def test_a_reader_that_has_gone_does_not_block_the_application(start_server: StartServer) -> None:
    is_done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        is_done.set()

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/"))
        await asyncio.sleep(0.2)
        connection.writer.transport.abort()

        await asyncio.wait_for(is_done.wait(), 2)
