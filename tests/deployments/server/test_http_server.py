"""The replica's HTTP server: requests and their order, over real sockets."""

import asyncio
import json

import pytest

from deployments.server import http_server
from deployments.server.asgi import Message, Receive, Scope, Send
from tests.deployments.server.apps import send_response
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import encode_request, open_raw

pytestmark = pytest.mark.anyio


async def describe(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request as it was understood."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    content = {key: scope[key] for key in ("method", "path", "http_version")}
    content |= {"query": scope["query_string"].decode(), "raw_path": scope["raw_path"].decode()}
    content |= {"body": body.decode(), "headers": [(k.decode(), v.decode()) for k, v in scope["headers"]]}
    await send_response(send, 200, json.dumps(content).encode())


async def test_one_connection_carries_many_requests(start_server: StartServer) -> None:
    server, port = await start_server(describe)
    async with open_raw(port) as connection:
        for number in range(5):
            response = await connection.request("POST", f"/{number}", b"x" * number)
            assert json.loads(response.body) | {"headers": 0} == {
                "method": "POST",
                "path": f"/{number}",
                "http_version": "1.1",
                "query": "",
                "raw_path": f"/{number}",
                "body": "x" * number,
                "headers": 0,
            }
            assert "connection" not in response
            assert "date" in response
        assert len(server.connections) == 1
        assert server.ongoing == 0


async def test_header_names_come_in_lower_case_and_in_order(start_server: StartServer) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        response = await connection.request("GET", "/", b"", "X-B: 1", "X-A:  two words", "X-B: 3")

    assert json.loads(response.body)["headers"] == [["host", "test"], ["x-b", "1"], ["x-a", "two words"], ["x-b", "3"]]


async def answer_slowest_first(scope: Scope, receive: Receive, send: Send) -> None:
    delay_s = float(scope["path"][1:])
    await asyncio.sleep(delay_s)
    await send_response(send, 200, scope["path"].encode())


async def test_pipelined_requests_are_answered_in_their_order(start_server: StartServer) -> None:
    _, port = await start_server(answer_slowest_first)
    paths = ["/0.2", "/0", "/0.1", "/0.01", "/0"]
    async with open_raw(port) as connection:
        await connection.send(b"".join(encode_request("GET", path) for path in paths))
        assert [(await connection.read_response()).body.decode() for _ in paths] == paths

        # The connection is read again afterwards.
        assert (await connection.request("GET", "/0")).body == b"/0"


async def test_many_pipelined_requests_with_bodies_are_answered_in_their_order(start_server: StartServer) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        requests = b"".join(encode_request("POST", f"/{number}", b"x" * 3000) for number in range(300))
        sending = asyncio.ensure_future(connection.send(requests))
        for number in range(300):
            content = json.loads((await connection.read_response()).body)
            assert (content["path"], len(content["body"])) == (f"/{number}", 3000)
        await sending


async def test_a_request_may_come_byte_by_byte(start_server: StartServer) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        for byte in encode_request("POST", "/p?q=1", b"ab", "x-a: 1"):
            await connection.send(bytes([byte]))
            await asyncio.sleep(0)
        content = json.loads((await connection.read_response()).body)

    assert (content["path"], content["query"], content["body"]) == ("/p", "q=1", "ab")
    assert ["x-a", "1"] in content["headers"]


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/", "/", "/", ""),
        ("/a?b=c&d=%20", "/a", "/a", "b=c&d=%20"),
        ("/a?b?c", "/a", "/a", "b?c"),
        ("/a%20b%2Fc", "/a b/c", "/a%20b%2Fc", ""),
        ("/%C3%A4", "/ä", "/%C3%A4", ""),
        ("/%ff", "/\ufffd", "/%ff", ""),
        ("/%zz%", "/%zz%", "/%zz%", ""),
        ("/a/../b/./c", "/a/../b/./c", "/a/../b/./c", ""),
        ("//a//b", "//a//b", "//a//b", ""),
        ("/a#b", "/a#b", "/a#b", ""),
        ("http://host/a%20b?c=d", "/a b", "/a%20b", "c=d"),
        ("http://host:80/a", "/a", "/a", ""),
        ("http://host", "/", "/", ""),
        ("http://host/?q", "/", "/", "q"),
        ("*", "*", "*", ""),
    ],
)
async def test_a_target_is_its_path_and_its_query(
    start_server: StartServer, target: str, path: str, raw_path: str, query: str
) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        content = json.loads((await connection.request("GET", target)).body)

    assert (content["path"], content["raw_path"], content["query"]) == (path, raw_path, query)


async def test_http_1_0_gets_its_response_and_the_end_of_the_connection(start_server: StartServer) -> None:
    async def send_parts(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"a", b"b"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    for app, body in ((describe, None), (send_parts, b"ab")):
        _, port = await start_server(app)
        async with open_raw(port) as connection:
            await connection.send(b"GET / HTTP/1.0\r\n\r\n")
            response = await connection.read_response()
            # HTTP/1.0 has no chunks.
            assert "transfer-encoding" not in response
            assert response["connection"] == "close"
            assert await connection.is_closed()
            assert body is None or response.body == body


async def test_http_1_0_may_keep_the_connection(start_server: StartServer) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        for _ in range(2):
            await connection.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            assert (await connection.read_response()).status == 200


async def test_the_connection_ends_where_the_caller_says_so(start_server: StartServer) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        response = await connection.request("GET", "/", b"", "connection: close")
        assert response["connection"] == "close"
        assert await connection.is_closed()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\na b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_request_gets_400_and_the_end_of_the_connection(
    start_server: StartServer, request_: bytes
) -> None:
    calls: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        calls.append(message)
        await send_response(send, 200, b"")

    _, port = await start_server(app)
    async with open_raw(port) as connection:
        await connection.send(request_)
        response = await connection.read_response()
        assert await connection.is_closed()

    assert (response.status, response["connection"]) == (400, "close")
    assert calls == []


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
async def test_another_protocol_is_not_spoken(start_server: StartServer, upgrade: str) -> None:
    _, port = await start_server(describe)
    async with open_raw(port) as connection:
        fields = ("connection: upgrade", f"upgrade: {upgrade}")
        await connection.send(encode_request("GET", "/", b"", *fields) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        rest = await connection.read_rest()

    assert b" 101 " not in rest


async def test_a_connection_that_sends_no_request_is_closed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "FIRST_REQUEST_TIMEOUT_S", 0.2)
    server, port = await start_server(describe)
    async with open_raw(port) as silent, open_raw(port) as half, open_raw(port) as used:
        await half.send(b"GET / HTTP/1.1\r\nx-a:")
        assert (await used.request("GET", "/")).status == 200
        assert await silent.is_closed(2)
        assert await half.is_closed(2)

        # One that has sent a request is kept for others.
        assert (await used.request("GET", "/")).status == 200
        assert len(server.connections) == 1
