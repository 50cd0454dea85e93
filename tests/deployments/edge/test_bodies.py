"""Targets and bodies that would hold a replica's slot end at the edge, over HTTP/1.1 and HTTP/2."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

from deployments.access.authorization import Authorization
from deployments.edge.state import CONTROL
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.settings import EdgeSettings, Limits, ServingSettings
from tests.deployments.edge.certificates import Certificates
from tests.deployments.edge.local_edge import KEY, SECRET, LocalEdge, run_edge
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio
FIELD = f"authorization: Bearer {KEY}"
PUBLIC_PATHS = ("/v2/health/live", "/v2/health/ready", "/v2/health/started")
HEADER_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates.make()


@pytest.fixture(scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[LocalEdge]:
    folder = tmp_path_factory.mktemp("bodies")
    settings = ServingSettings(home=folder, edge=EdgeSettings(request_header_timeout_s=HEADER_TIMEOUT_S))
    async with run_edge(folder, settings=settings) as edge:
        yield edge


@pytest.fixture(scope="module")
async def tls_edge(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, certificates: Certificates
) -> AsyncIterator[LocalEdge]:
    folder = tmp_path_factory.mktemp("tls")
    settings = ServingSettings(home=folder, edge=EdgeSettings(request_header_timeout_s=HEADER_TIMEOUT_S))
    async with run_edge(folder, settings=settings, certificate=certificates.issue()[0]) as edge:
        yield edge


def count_requests(edge: LocalEdge) -> int:
    """Requests that replicas have now."""
    return sum(replica.server.ongoing for replica in edge.replicas)


@pytest.mark.parametrize("host", ["h_x:8000", "h:99999", "h:", "h_x"])
@pytest.mark.parametrize(("field", "path"), [("", "/v2/health/live"), (FIELD, "/v2/models/flowers/infer")])
async def test_an_absolute_target_reaches_a_replica_as_its_path_and_query(
    edge: LocalEdge, host: str, field: str, path: str
) -> None:
    fields = f"host: {host}\r\n{field}\r\n" if field else f"host: {host}\r\n"
    async with open_raw(edge.http_port) as connection:
        await connection.send(f"GET http://{host}{path}?a=b HTTP/1.1\r\n{fields}\r\n".encode())
        response = await connection.read_response()

    assert (response.status, json.loads(response.body)["path"]) == (200, path)
    assert count_requests(edge) == 0


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://a@b@h/v2/health/live", 400),
        ("GET h_x:80", 400),
        ("GET v2/health/live", 400),
        ("GET *", 200),
        ("OPTIONS *", 204),
        ("OPTIONS http://h_x:99999/v2", 204),
        ("CONNECT h_x:80", 405),
    ],
)
async def test_another_target_gets_its_status_and_holds_no_request(edge: LocalEdge, line: str, status: int) -> None:
    host = line.partition("://")[2].partition("/")[0] or line.split()[1]
    host = host if ":" in host or "@" in host else "test"
    async with open_raw(edge.http_port) as connection:
        await connection.send(f"{line} HTTP/1.1\r\nhost: {host}\r\n{FIELD}\r\n\r\n".encode())
        assert (await connection.read_response()).status == status
    assert count_requests(edge) == 0


@pytest.mark.parametrize("path", PUBLIC_PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "field", ["content-length: 1", "content-length: 33000", "transfer-encoding: chunked", "Transfer-Encoding: Chunked"]
)
async def test_a_public_path_takes_no_body(edge: LocalEdge, path: str, method: str, field: str) -> None:
    async with open_raw(edge.http_port) as connection:
        await connection.send(f"{method} {path} HTTP/1.1\r\nhost: t\r\n{field}\r\n\r\n".encode())
        response = await connection.read_response(is_head=method == "HEAD")

    assert (response.status, response["content-type"]) == (413, "application/json")
    if method != "HEAD":
        assert json.loads(response.body)["error"] == "this path takes no body; send the request without one"
    assert count_requests(edge) == 0


async def test_a_body_of_no_bytes_is_none(edge: LocalEdge) -> None:
    for method in ("GET", "HEAD", "POST", "PUT"):
        async with open_raw(edge.http_port) as connection:
            response = await connection.request(method, "/v2/health/live", b"", "content-length: 0")
            assert response.status == 200


async def test_bodies_that_do_not_come_keep_no_one_from_a_health_check(folder: Path) -> None:
    async def answer(request: Request) -> Response:
        return Response(200, b"{}")

    async with run_edge(folder, names=()) as edge, contextlib.AsyncExitStack() as stack:
        await edge.add(CONTROL, compose_http(answer, Limits(max_queue=8), SECRET, Authorization()))
        bodies = [b"PUT /v2/health/live HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\n"] * 10
        bodies += [b"POST /v2/health/live HTTP/1.1\r\nhost: t\r\ncontent-length: 40000\r\n\r\n" + bytes(39_999)] * 10
        for body in bodies:
            connection = await stack.enter_async_context(open_raw(edge.http_port))
            with contextlib.suppress(ConnectionError):
                await connection.send(body)
        await asyncio.sleep(0.2)

        assert count_requests(edge) == 0
        async with open_raw(edge.http_port) as connection:
            assert (await connection.request("GET", "/v2/health/live")).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_every_methods_body_is_awaited_before_a_replica_gets_the_request(edge: LocalEdge, method: str) -> None:
    async with open_raw(edge.http_port) as connection:
        await connection.send(
            f"{method} /v2/models/flowers/infer HTTP/1.1\r\nhost: t\r\n{FIELD}\r\ncontent-length: 2\r\n\r\na".encode()
        )
        await asyncio.sleep(HEADER_TIMEOUT_S / 2)
        assert count_requests(edge) == 0
        response = await connection.read_response()

    assert response.status == 408


class Http2Connection:
    """One connection that speaks HTTP/2, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()

    def send(self, method: str, path: str, authority: str = "t", *, body: bytes | None, ends: bool) -> None:
        """Send a request without a length."""
        fields = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        self.h2.send_headers(1, fields, end_stream=ends and body is None)
        if body is not None:
            self.h2.send_data(1, body, end_stream=ends)
        self._writer.write(self.h2.data_to_send())

    async def read_response(self) -> tuple[int, bytes]:
        """Read the response of the stream."""
        status, body = 0, b""
        async with asyncio.timeout(10):
            while data := await self._reader.read(65536):
                for event in self.h2.receive_data(data):
                    if isinstance(event, ResponseReceived):
                        status = int(dict(event.headers)[":status"])
                    elif isinstance(event, DataReceived):
                        body += event.data
                    elif isinstance(event, StreamEnded | StreamReset):
                        return status, body
        raise ConnectionError("closed")


@contextlib.asynccontextmanager
async def open_http2(edge: LocalEdge, certificates: Certificates) -> AsyncIterator[Http2Connection]:
    context = certificates.build_context()
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.http_port, ssl=context, server_hostname="localhost"
    )
    try:
        yield Http2Connection(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize(("body", "ends", "status"), [(b"a", True, 413), (b"a", False, 408), (None, False, 408)])
async def test_a_public_path_takes_no_http2_body_without_a_length(
    tls_edge: LocalEdge, certificates: Certificates, method: str, body: bytes | None, ends: bool, status: int
) -> None:
    async with open_http2(tls_edge, certificates) as connection:
        connection.send(method, "/v2/health/live", body=body, ends=ends)
        assert (await connection.read_response())[0] == status
    assert count_requests(tls_edge) == 0


@pytest.mark.parametrize("authority", ["h_x:8000", "h:99999", "t"])
async def test_an_http2_authority_does_not_reach_a_replicas_target(
    tls_edge: LocalEdge, certificates: Certificates, authority: str
) -> None:
    async with open_http2(tls_edge, certificates) as connection:
        connection.send("GET", "/v2/health/live?a=b", authority, body=None, ends=True)
        status, body = await connection.read_response()

    assert (status, httpx.Response(200, content=body).json()["path"]) == (200, "/v2/health/live")


@pytest.mark.parametrize("trailer", ["connection: close", "proxy-connection: close"])
async def test_one_callers_trailers_cost_no_other_request_its_response(edge: LocalEdge, trailer: str) -> None:
    head = f"POST /v2/models/flowers/infer HTTP/1.1\r\nhost: t\r\n{FIELD}\r\ntransfer-encoding: chunked\r\n\r\n"
    statuses = []
    async with open_raw(edge.http_port) as connection, open_raw(edge.http_port) as other:
        for _ in range(3):
            await connection.send(f"{head}1\r\na\r\n0\r\n{trailer}\r\n\r\n".encode())
            statuses.append((await connection.read_response()).status)
            # By the same connection from the edge to the replica.
            statuses.append((await other.request("GET", "/v2/models/flowers", b"", FIELD)).status)

    assert statuses == [200] * 6


@pytest.mark.parametrize("trailer", ["content-length: 3", "transfer-encoding: chunked"])
async def test_trailers_that_no_server_takes_are_their_callers_mistake(edge: LocalEdge, trailer: str) -> None:
    head = f"POST /v2/models/flowers/infer HTTP/1.1\r\nhost: t\r\n{FIELD}\r\ntransfer-encoding: chunked\r\n\r\n"
    async with open_raw(edge.http_port) as connection:
        await connection.send(f"{head}1\r\na\r\n0\r\n{trailer}\r\n\r\n".encode())
        assert (await connection.read_response()).status == 400
    assert count_requests(edge) == 0
