"""What a replica's server counts: each answer before it is sent, streams as far as they came."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from deployments.access.authorization import Authorization
from deployments.access.usage.call_event import CURRENT_EVENT, CallEvent, Kind, node_event, parse_event
from deployments.access.usage.request_usage import Metering, RequestUsage
from deployments.models.served_model import ServedModel
from deployments.server.edge_check import EdgeCheck
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import TESTER_HEADER, encode_caller
from tests.deployments.server.apps import make_app, open_client
from training.bundle.verify import verify_bundle

SECRET, EVENT = "of the edge", "0f9f6a0e-6b56-4f0d-b5f0-d2a1a3a5a7a9"
HEADERS = {"x-shoal-edge": SECRET, "x-shoal-event": EVENT, **TESTER_HEADER}
TENSOR = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [0.5] * 8}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Sink:
    """Keeps what is counted, and whether its response had been sent by then."""

    def __init__(self) -> None:
        self.written: list[tuple[RequestUsage, int]] = []

    def append(self, usage: RequestUsage, status: int) -> None:
        self.written.append((usage, status))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
async def client(table_bundle: Path, tmp_path: Path, sink: Sink) -> AsyncIterator[httpx.AsyncClient]:
    digest = verify_bundle(table_bundle).digest
    endpoint = ModelEndpoint(name="flowers", version=3, digest=digest, uri=str(table_bundle), limits=Limits(max_rows=9))
    routes = ModelRoutes(ServedModel(endpoint, tmp_path))
    app = compose_http(routes, endpoint.limits, SECRET, Authorization("flowers"), usage=sink)
    async with open_client(app, "/v2/models/flowers", headers=HEADERS) as http:
        yield http


async def test_an_answer_is_counted_with_its_rows_compute_bytes_and_caller(
    client: httpx.AsyncClient, sink: Sink
) -> None:
    responses = [
        await client.post("/infer", json={"inputs": [TENSOR]}),
        await client.post("/predict", json={"inputs": [{"length": 1, "width": 1, "height": 1, "weight": 1}] * 3}),
    ]

    assert [response.status_code for response in responses] == [200, 200]
    assert [(usage.rows, usage.tokens_in, status) for usage, status in sink.written] == [(2, 0, 200), (3, 0, 200)]
    for (usage, _), response in zip(sink.written, responses, strict=True):
        assert usage.event == CallEvent(bytes.fromhex(EVENT.replace("-", "")), Kind.REQUEST)
        assert usage.caller.name == "default/tester"
        assert 0 < usage.compute_s < 1
        assert usage.bytes_in == len(response.request.content)
        assert usage.bytes_out == len(response.content)


async def test_what_is_refused_is_counted_as_refused_and_a_get_not_at_all(
    client: httpx.AsyncClient, sink: Sink
) -> None:
    await client.get("/example")
    await client.post("/infer", json={"inputs": []})
    await client.post("/predict", json={"inputs": [[1]] * 10})
    await client.post("/predict", json={}, headers={"x-shoal-caller": encode_caller(allow="predict:roses")})
    await client.post("/predict", json={}, headers={"x-shoal-edge": "a guess"})

    assert [status for _, status in sink.written] == [422, 413, 403]


async def test_an_answer_is_counted_before_it_is_sent(sink: Sink) -> None:
    async def answer(request: Request) -> Response:
        return Response(200, b"{}")

    server = HttpServer(make_app(answer, EdgeCheck(SECRET), Metering(sink)))
    port = await server.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: h\r\nx-shoal-edge: of the edge\r\ncontent-length: 0\r\n\r\n")
    order: list[str] = []
    connection = None
    while connection is None:
        await asyncio.sleep(0)
        connection = next(iter(server.connections), None)
    write = connection.transport.write

    class Transport:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def write(self, data: bytes) -> None:
            order.append(f"sent after {len(sink.written)}")
            write(data)

    original = connection.transport
    connection.transport = Transport()  # type: ignore[assignment]
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await server.drain(1)

    assert order == ["sent after 1"]


async def test_a_stream_is_counted_as_far_as_it_came_where_its_caller_leaves(sink: Sink) -> None:
    async def stream(request: Request) -> None:
        await request.start(200, [])
        while True:
            request.usage.tokens_out += 1  # type: ignore[union-attr]
            await request.write(b"x" * 10)
            await asyncio.sleep(0.001)

    async with open_client(make_app(stream, EdgeCheck(SECRET), Metering(sink)), headers=HEADERS) as http:
        async with http.stream("POST", "/") as response:
            await anext(response.aiter_raw())
        async with asyncio.timeout(5):
            while not sink.written:
                await asyncio.sleep(0.01)

    ((usage, status),) = sink.written
    assert status == 200
    assert usage.tokens_out > 0
    assert abs(usage.bytes_out - 10 * usage.tokens_out) <= 10


async def test_a_caller_that_leaves_before_its_answer_pays_nothing(sink: Sink) -> None:
    is_inside = asyncio.Event()

    async def wait(request: Request) -> Response:
        is_inside.set()
        await asyncio.sleep(30)
        return Response(200, b"")

    server = HttpServer(make_app(wait, EdgeCheck(SECRET), Metering(sink)))
    port = await server.start("127.0.0.1")
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: h\r\nx-shoal-edge: of the edge\r\ncontent-length: 0\r\n\r\n")
    await is_inside.wait()
    writer.close()
    async with asyncio.timeout(5):
        while server.ongoing:
            await asyncio.sleep(0.01)
    await server.drain(1)

    assert sink.written == []


async def test_what_did_not_come_from_a_caller_is_internal_and_has_an_id_of_its_own() -> None:
    for value in (b"", b"no uuid", b"0" * 31, b"\xff"):
        first, second = parse_event(value), parse_event(value)
        assert first.kind is Kind.INTERNAL
        assert first.id != second.id


async def test_a_nodes_event_is_the_same_for_each_attempt_and_another_for_each_node() -> None:
    event = CallEvent(b"e" * 16)
    CURRENT_EVENT.set(event)
    seen = []
    for path in ("root.a", "root.a", "root.b"):
        with node_event(path):
            seen.append(CURRENT_EVENT.get())
            with node_event("inner"):
                seen.append(CURRENT_EVENT.get())

    assert CURRENT_EVENT.get() == event
    assert seen[:2] == seen[2:4]
    assert len(set(seen)) == 4
    assert all(each is not None and each.kind is Kind.NODE for each in seen)


def test_a_request_pays_its_share_of_a_pass() -> None:
    from deployments.models.batch_statistics import BatchStatistics
    from deployments.models.chunk_queue import Batch
    from deployments.models.chunks import Chunk, PendingRequest

    usages = [RequestUsage(Sink(), None, CallEvent(b"")) for _ in range(2)]  # type: ignore[arg-type]
    batch = Batch()
    for usage, rows in zip(usages, (1, 3), strict=True):
        request = PendingRequest(rows, lambda result: None, usage=usage)
        batch.chunks.append(Chunk(request, np.zeros((rows, 4)), slice(0, rows)))
        batch.rows += rows

    BatchStatistics().record_pass(batch, 10.0, 10.4)

    assert [usage.compute_s for usage in usages] == [pytest.approx(0.1), pytest.approx(0.3)]
