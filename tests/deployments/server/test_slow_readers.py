"""Callers that read a response slowly or not at all, and the end of the server beside them, over real sockets."""

import asyncio
import time

import pytest

from deployments.server.http_server import HttpServer
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.settings import Limits
from tests.deployments.server.apps import make_app
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import encode_request, open_raw

pytestmark = pytest.mark.anyio
# More than the sockets of both sides and the test's own reader take.
BODY = bytes(30_000_000)


async def answer(request: Request) -> Response:
    return Response(200, BODY if request.path == "/large" else b"ok")


def answer_without_task(request: Request) -> None:
    asyncio.get_running_loop().call_soon(request.respond, Response(200, BODY if request.path == "/large" else b"ok"))


def count_slots(server: HttpServer) -> int:
    """Requests that hold a slot; each is ongoing too."""
    (limits,) = server.app.layers
    assert isinstance(limits, RequestLimits)
    assert len(limits._deadlines_s) == server.ongoing
    return server.ongoing


@pytest.mark.parametrize("handler", [answer, answer_without_task])
async def test_a_large_response_keeps_its_slot_until_it_is_read(start_server: StartServer, handler: object) -> None:
    app = make_app(handler, RequestLimits(Limits(request_timeout_s=0.1)))  # type: ignore[arg-type]
    server, port = await start_server(app)
    async with open_raw(port) as connection, open_raw(port) as other:
        await connection.send(encode_request("GET", "/large") + encode_request("GET", "/small"))
        # Longer than a request may take until its response.
        await asyncio.sleep(0.4)
        assert count_slots(server) == 1
        assert (await other.request("GET", "/small")).body == b"ok"
        assert len((await connection.read_response()).body) == len(BODY)
        assert (await connection.read_response()).body == b"ok"
    assert count_slots(server) == 0


@pytest.mark.parametrize("limits", [{"stream_stall_timeout_s": 0.3}, {"stream_timeout_s": 0.3}])
async def test_a_caller_that_does_not_read_loses_its_connection_and_its_slot(
    start_server: StartServer, limits: dict[str, float]
) -> None:
    server, port = await start_server(make_app(answer, RequestLimits(Limits(**limits))))  # type: ignore[arg-type]
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/large") + encode_request("GET", "/small"))
        await asyncio.sleep(0.15)
        assert count_slots(server) == 1
        async with asyncio.timeout(5):
            while server.connections:
                await asyncio.sleep(0.01)
        assert count_slots(server) == 0
        assert len(await connection.read_rest_or_reset()) < len(BODY)


async def test_a_caller_that_reads_slowly_and_steadily_gets_all(start_server: StartServer) -> None:
    server, port = await start_server(make_app(answer, RequestLimits(Limits(stream_stall_timeout_s=0.3))))
    size = 0
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/large", b"", "connection: close"))
        while part := await connection.reader.read(3_000_000):
            size += len(part)
            await asyncio.sleep(0.05)

    assert size > len(BODY)
    assert server.ongoing == 0


async def test_a_caller_that_leaves_without_reading_keeps_no_slot(start_server: StartServer) -> None:
    server, port = await start_server(make_app(answer, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/large") + encode_request("GET", "/small"))
        await asyncio.sleep(0.1)
        assert count_slots(server) == 1
    async with asyncio.timeout(5):
        while server.connections or server.ongoing:
            await asyncio.sleep(0.01)
    assert count_slots(server) == 0


@pytest.mark.parametrize("is_buffered", [False, True])
async def test_draining_waits_until_what_was_written_is_read(start_server: StartServer, is_buffered: bool) -> None:
    server, port = await start_server(make_app(answer, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        assert (await connection.request("GET", "/small")).body == b"ok"
        if is_buffered:
            # All of it is in the transport's buffer, and the request at its end.
            for each in server.connections:
                each.transport.set_write_buffer_limits(10**9)
        await connection.send(encode_request("GET", "/large"))
        await asyncio.sleep(0.1)
        assert count_slots(server) == (not is_buffered)
        draining = asyncio.ensure_future(server.drain(10))
        await asyncio.sleep(0.2)

        assert not draining.done()
        assert len((await connection.read_response()).body) == len(BODY)
        await asyncio.wait_for(draining, 1)
        assert not server.connections


async def test_draining_does_not_wait_longer_than_it_may_for_who_does_not_read(start_server: StartServer) -> None:
    server, port = await start_server(make_app(answer, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        await connection.send(encode_request("GET", "/large"))
        await asyncio.sleep(0.1)
        started_s = time.monotonic()
        await asyncio.wait_for(server.drain(0.3), 1)
        assert time.monotonic() - started_s >= 0.3
