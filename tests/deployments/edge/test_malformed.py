"""What is no proper HTTP request ends at the edge, and no replica sees it.

What HAProxy's parser refuses gets its own text, an HTML page, which has no setting.
"""

import json

import pytest

from tests.deployments.edge.local_edge import KEY, LocalEdge
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio
FIELD = f"authorization: Bearer {KEY}"
START = f"POST /v2/models/flowers/infer HTTP/1.1\r\nhost: t\r\n{FIELD}\r\n".encode()
SMUGGLED = b"GET /v2/models/roses/smuggled HTTP/1.1\r\nhost: t\r\n\r\n"


@pytest.mark.parametrize("size", [1000, 20_000])
async def test_a_large_header_is_accepted(edge: LocalEdge, size: int) -> None:
    async with open_raw(edge.http_port) as connection:
        response = await connection.request("GET", "/v2/models/flowers", b"", FIELD, f"x-large: {'x' * size}")

    assert response.status == 200
    assert ["x-large", "x" * size] in json.loads(response.body)["headers"]


async def test_many_fields_are_accepted(edge: LocalEdge) -> None:
    async with open_raw(edge.http_port) as connection:
        fields = [f"x-{number}: {number}" for number in range(200)]
        response = await connection.request("GET", "/v2/models/flowers", b"", FIELD, *fields)

    assert response.status == 200


@pytest.mark.parametrize(
    "fields", [[f"x-{number}: {number}" for number in range(1000)], ["x-a: 1"] * 1000, ["x-a: 1"] * 257]
)
async def test_more_fields_are_refused_in_json(edge: LocalEdge, fields: list[str]) -> None:
    async with open_raw(edge.http_port) as connection:
        infer = await connection.request("GET", "/v2/models/flowers", b"", *fields)
        predict = await connection.request("GET", "/v2/models/flowers/predict", b"", FIELD, *fields)

    assert infer.status == predict.status == 400
    assert json.loads(infer.body)["error"] == "the header has more than 256 fields, the limit"
    assert json.loads(predict.body)["error"]["code"] == "bad_request"


@pytest.mark.parametrize("lines", [[f"x-large: {'x' * 100_000}"], [f"cookie: {'a=b; ' * 20_000}"], ["x-a: 1"] * 3000])
async def test_a_larger_header_is_refused(edge: LocalEdge, lines: list[str]) -> None:
    async with open_raw(edge.http_port) as connection:
        response = await connection.request("GET", "/v2/models/flowers", b"", *lines)
        assert await connection.is_closed(2)

    assert response.status == 400


async def test_a_long_path_is_refused(edge: LocalEdge) -> None:
    async with open_raw(edge.http_port) as connection:
        assert (await connection.request("GET", f"/{'x' * 100_000}")).status == 400


@pytest.mark.parametrize(
    "request_",
    [
        # Two lengths, a length that is none, and a length beside chunks.
        START + b"content-length: 5\r\ncontent-length: 6\r\n\r\naaaaaa" + SMUGGLED,
        START + b"content-length: 5, 6\r\n\r\naaaaaa",
        START + b"content-length: +5\r\n\r\naaaaa",
        START + b"content-length: 0x5\r\n\r\naaaaa",
        START + b"content-length: -5\r\n\r\naaaaa",
        START + b"content-length: 5 5\r\n\r\naaaaa",
        START + b"content-length:\r\n\r\naaaaa",
        START + b"content-length: 99999999999999999999\r\n\r\n",
        # CL.TE and TE.CL with encodings that one side may overlook.
        START + b"content-length: 6\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\nG",
        START + b"content-length: 6\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\nG",
        START + b"content-length: 6\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\nG",
        START + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        START + b"transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
        # Lines that are none.
        b"GET /v2\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n: empty\r\n\r\n",
        b"GET /v2\x00 HTTP/1.1\r\n\r\n",
        b"GET /v2\xff HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
        b"\x00" * 100,
    ],
)
async def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(edge: LocalEdge, request_: bytes) -> None:
    async with open_raw(edge.http_port) as connection:
        await connection.send(request_)
        rest = await connection.read_rest_or_reset()

    head, _, _ = rest.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), rest[:200]
    assert head.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in head.lower()
    assert await count_smuggled(edge) == 0


@pytest.mark.parametrize(
    "encoding",
    [
        b"transfer-encoding: chunked",
        b"Transfer-Encoding: CHUNKED",
        b"transfer-encoding:\tchunked",
        b"transfer-encoding: chunked ",
    ],
)
async def test_a_length_beside_chunks_smuggles_no_request(edge: LocalEdge, encoding: bytes) -> None:
    """RFC 9112, 6.1: chunks count and the connection is closed, or the request is refused; never both are passed on."""
    chunked = b"5\r\naaaaa\r\n0\r\n\r\n"
    for length in (4, len(chunked), len(chunked + SMUGGLED)):
        async with open_raw(edge.http_port) as connection:
            await connection.send(START + b"content-length: %d\r\n%b\r\n\r\n" % (length, encoding) + chunked + SMUGGLED)
            response = await connection.read_response()
            rest = await connection.read_rest_or_reset()

        assert response.status in (200, 400)
        assert b"roses" not in rest
        if response.status == 200:
            content = json.loads(response.body)
            assert content["bytes"] == 5
            assert "content-length" not in dict(content["headers"])
    assert await count_smuggled(edge) == 0


async def test_a_request_within_a_body_is_a_body(edge: LocalEdge) -> None:
    async with open_raw(edge.http_port) as connection:
        response = await connection.request("POST", "/v2/models/flowers/infer", SMUGGLED, FIELD)
        assert json.loads(response.body)["bytes"] == len(SMUGGLED)
        # A body with GET and HEAD too.
        response = await connection.request("GET", "/v2/models/flowers/infer", SMUGGLED, FIELD)
        assert json.loads(response.body)["bytes"] == len(SMUGGLED)
        assert (await connection.request("GET", "/v2", b"", FIELD)).status == 200
    assert await count_smuggled(edge) == 0


@pytest.mark.parametrize(
    "fields",
    [
        ["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAARAAAAAAAIAAAAA"],
        [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-version: 13",
        ],
        ["connection: upgrade", "upgrade: shoal/2"],
    ],
)
async def test_another_protocol_is_not_agreed_on(edge: LocalEdge, fields: list[str]) -> None:
    async with open_raw(edge.http_port) as connection:
        response = await connection.request("GET", "/v2/models/flowers", b"", FIELD, *fields)
        assert response.status == 200
        assert "upgrade" not in dict(json.loads(response.body)["headers"])
        # The connection speaks HTTP/1.1 still.
        assert (await connection.request("GET", "/v2", b"", FIELD)).status == 200


async def test_http2_without_tls_needs_a_key_too(edge: LocalEdge) -> None:
    async with open_raw(edge.http_port) as connection:
        await connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        # A settings frame, or a refusal; no response of a replica.
        assert b"replica" not in await connection.reader.read(1000)


async def count_smuggled(edge: LocalEdge) -> int:
    """How many requests the model has had that was smuggled to."""
    answer = (await edge.haproxy.run_commands(["show stat model.roses 2 -1"]))[0]
    names, *rows = [line.split(",") for line in answer.strip().splitlines() if line]
    index = [name.strip("# ") for name in names].index("req_tot" if "req_tot" in names else "stot")
    return sum(int(row[index] or 0) for row in rows)
