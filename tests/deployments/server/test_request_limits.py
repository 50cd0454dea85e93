"""A replica's request limits: the deadline that a request names, and the time of its body, over real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from time import perf_counter

import pytest

from deployments.access.caller import Caller
from deployments.access.limits.weights import set_weights
from deployments.server.http_server import HttpServer
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.server.sse import Event, send_events
from deployments.settings import Limits
from tests.deployments.server.apps import make_app
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import encode_request, open_raw

pytestmark = pytest.mark.anyio
TIMEOUT_FIELD = "x-request-timeout-seconds"


async def wait_long(request: Request) -> Response:
    await asyncio.sleep(10)
    return Response(200, b"")


def wait_without_task(request: Request) -> None:
    """Nobody responds."""


def get_limits(server: HttpServer) -> RequestLimits:
    (limits,) = (layer for layer in server.app.layers if isinstance(layer, RequestLimits))
    return limits


@pytest.mark.parametrize("handler", [wait_long, wait_without_task])
async def test_a_deadline_that_a_request_names_is_kept_closely(start_server: StartServer, handler: object) -> None:
    server, port = await start_server(make_app(handler, RequestLimits(Limits())))  # type: ignore[arg-type]
    started_s = perf_counter()
    async with open_raw(port) as connection:
        response = await connection.request("POST", "/", b"a", f"{TIMEOUT_FIELD}: 0.03")

    assert perf_counter() - started_s < 0.2
    assert response.status == 504
    assert "the request's timeout of 0.03 s" in json.loads(response.body)["error"]["message"]
    assert (server.ongoing, get_limits(server)._own_timers, get_limits(server)._deadlines_s) == (0, {}, {})


async def test_the_services_own_limit_holds_for_a_longer_one(start_server: StartServer) -> None:
    _, port = await start_server(make_app(wait_long, RequestLimits(Limits(request_timeout_s=0.2))))
    started_s = perf_counter()
    async with open_raw(port) as connection:
        response = await connection.request("POST", "/", b"a", f"{TIMEOUT_FIELD}: 60")

    assert response.status == 504
    assert perf_counter() - started_s < 1


async def test_a_request_in_time_leaves_no_timer(start_server: StartServer) -> None:
    async def answer(request: Request) -> Response:
        return Response(200, b"")

    server, port = await start_server(make_app(answer, RequestLimits(Limits())))
    async with open_raw(port) as connection:
        for _ in range(3):
            assert (await connection.request("POST", "/", b"a", f"{TIMEOUT_FIELD}: 5")).status == 200
    assert get_limits(server)._own_timers == {}


async def test_a_stream_that_has_begun_outlives_its_deadline(start_server: StartServer) -> None:
    async def list_events(request: Request) -> None:
        async def iterate() -> AsyncGenerator[Event]:
            for _ in range(3):
                yield "token", b"{}"
                await asyncio.sleep(0.1)

        await send_events(request, iterate())

    _, port = await start_server(make_app(list_events, RequestLimits(Limits())))  # type: ignore[arg-type]
    async with open_raw(port) as connection:
        response = await connection.request("POST", "/", b"a", f"{TIMEOUT_FIELD}: 0.05")

    assert response.body.count(b"event: token") == 3


@pytest.mark.parametrize("field", ["content-length: 2", "transfer-encoding: chunked"])
async def test_a_body_that_does_not_come_gives_its_slot_back_before_the_requests_time_is_over(
    start_server: StartServer, field: str
) -> None:
    server, port = await start_server(make_app(wait_long, RequestLimits(Limits(request_timeout_s=2.0))))
    started_s = perf_counter()
    async with open_raw(port) as connection, open_raw(port) as complete:
        await complete.send(encode_request("POST", "/", b"ab"))
        await connection.send(f"POST / HTTP/1.1\r\nhost: t\r\n{field}\r\n\r\n".encode())
        response = await connection.read_response()
        assert 0.9 < perf_counter() - started_s < 1.6
        assert (response.status, response["connection"]) == (408, "close")
        assert json.loads(response.body)["error"]["code"] == "body_timeout"
        assert len(get_limits(server)._deadlines_s) == server.ongoing == 1
        assert (await complete.read_response()).status == 504


async def test_a_tenant_has_its_share_of_the_places_once_another_one_comes(start_server: StartServer) -> None:
    class CallerOfHeader:
        def admit(self, request: Request) -> None:
            request.caller = Caller(request.get_header(b"x-tenant").decode() + "/key")

        def leave(self, request: Request) -> None:
            """Nothing is left."""

    limits = RequestLimits(Limits(max_queue=8, request_timeout_s=2))
    set_weights({"b": 3.0})
    server, port = await start_server(make_app(wait_long, CallerOfHeader(), limits))
    async with contextlib.AsyncExitStack() as stack:

        async def send(tenant: str) -> int:
            """Returns 429, or 0 where the request is inside."""
            connection = await stack.enter_async_context(open_raw(port))
            before = server.ongoing
            await connection.send(encode_request("POST", "/", b"x", f"x-tenant: {tenant}"))
            reading = asyncio.create_task(connection.read_response())
            async with asyncio.timeout(5):
                while server.ongoing == before and not reading.done():
                    await asyncio.sleep(0.005)
            if reading.done():
                return reading.result().status
            stack.callback(reading.cancel)
            return 0

        alone = [await send("a") for _ in range(5)]
        comes = await send("b")
        shared = [await send("a")] + [await send("b") for _ in range(2)]
        full = await send("b")
    set_weights({})

    # Of eight places a has two beside b of weight 3: those that it has already it keeps.
    assert alone == [0] * 5
    assert comes == 0
    assert shared == [429, 0, 0]
    assert full == 429
