"""gRPC through the edge: the key is checked before a gateway sees a message."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployments.access.usage.call_event import Kind, parse_event
from deployments.edge.state import CONTROL, GRPC, Member
from deployments.protocols.grpc import messages
from deployments.settings import EdgeSettings, ServingSettings
from tests.deployments.callers import TESTER, digest
from tests.deployments.edge.local_edge import KEY, SECRET, LocalEdge, build_route, run_edge
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio
SERVICE = f"/{messages.SERVICE_NAME}"
METADATA = (("authorization", f"Bearer {KEY}"),)
PUBLIC = [f"{SERVICE}/ServerLive", f"{SERVICE}/ServerReady", "/grpc.health.v1.Health/Check"]
PRIVATE = [
    f"{SERVICE}/ModelInfer",
    f"{SERVICE}/ModelStreamInfer",
    f"{SERVICE}/ServerMetadata",
    f"{SERVICE}/ServerLive/",
    f"{SERVICE}/serverlive",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.HealthX/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.health.v1.Health/../ServerLive",
    "/nothing",
]


class Gateway:
    """A gRPC server that answers every method with what it got, and records the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def start(self) -> int:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    def service(self, details: Any) -> Any:
        """Called by grpc for each call."""
        self.calls.append((details.method, dict(details.invocation_metadata)))

        async def echo(bodies: Any, context: Any) -> AsyncIterator[bytes]:
            async for body in bodies:
                if body == b"fail":
                    await context.abort(grpc.StatusCode.NOT_FOUND, "no model")
                yield body

        return grpc.stream_stream_rpc_method_handler(echo)

    async def stop(self) -> None:
        await self._server.stop(None)


@pytest.fixture(scope="module")
async def gateway(anyio_backend: str) -> AsyncIterator[tuple[Gateway, Member]]:
    gateway = Gateway()
    port = await gateway.start()
    yield gateway, Member("gateway", build_route(GRPC), f"127.0.0.1:{port}", protocol="grpc")
    await gateway.stop()


@pytest.fixture(scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory, gateway: tuple[Gateway, Member]) -> AsyncIterator[LocalEdge]:
    async with run_edge(tmp_path_factory.mktemp("grpc"), names=(CONTROL,)) as edge:
        await edge.directory.tell(members=(*edge.directory.state.members, gateway[1]))
        yield edge


def open_channel(edge: LocalEdge, *options: tuple[str, Any]) -> Any:
    return grpc.aio.insecure_channel(
        f"127.0.0.1:{edge.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1), *options]
    )


@pytest.fixture
async def channel(edge: LocalEdge) -> AsyncIterator[Any]:
    async with open_channel(edge) as channel:
        yield channel


async def call(channel: Any, method: str, body: bytes = b"x", metadata: Any = METADATA) -> bytes:
    result: bytes = await channel.unary_unary(method)(body, metadata=metadata, timeout=20)
    return result


@pytest.mark.parametrize("method", [*PUBLIC, *PRIVATE])
async def test_a_call_with_a_key_reaches_the_gateway_and_not_the_key(
    channel: Any, gateway: tuple[Gateway, Member], method: str
) -> None:
    assert await call(channel, method) == b"x"

    name, metadata = gateway[0].calls[-1]
    assert name == method
    assert (metadata["x-shoal-edge"], metadata["x-shoal-caller"]) == (SECRET, TESTER)
    assert metadata["x-request-id"]
    assert parse_event(metadata["x-shoal-event"].encode()).kind is Kind.REQUEST
    assert "authorization" not in metadata


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no API key; send the metadata authorization: Bearer KEY"),
        ("Bearer", "no API key"),
        ("Bearer wrong", "unknown API key"),
        (f"Bearer {digest(KEY)}", "unknown API key"),
        (f"Token {KEY}", "the metadata authorization has no Bearer before the key"),
        ("Basic " + base64.b64encode(b"a:wrong").decode(), "unknown API key"),
        ("Basic " + base64.b64encode(b"a:").decode(), ""),
    ],
)
async def test_a_call_without_a_valid_key_is_unauthenticated(
    channel: Any, gateway: tuple[Gateway, Member], value: str | None, message: str
) -> None:
    calls = len(gateway[0].calls)
    for method in PRIVATE:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, method, metadata=() if value is None else (("authorization", value),))
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert error.value.details().startswith(message)
    assert len(gateway[0].calls) == calls


async def test_tritons_client_may_send_the_key_as_a_password(channel: Any) -> None:
    value = "Basic " + base64.b64encode(f"anybody:{KEY}".encode()).decode()

    assert await call(channel, f"{SERVICE}/ModelInfer", metadata=(("authorization", value),)) == b"x"


@pytest.mark.parametrize("method", PUBLIC)
async def test_health_needs_no_key(channel: Any, gateway: tuple[Gateway, Member], method: str) -> None:
    metadata = (("x-shoal-caller", "admin"), ("x-shoal-edge", "x"))

    assert await call(channel, method, metadata=metadata) == b"x"

    assert gateway[0].calls[-1][1].get("x-shoal-caller", "") == ""
    assert gateway[0].calls[-1][1]["x-shoal-edge"] == SECRET


async def test_the_gateways_errors_come_as_they_are(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, f"{SERVICE}/ModelInfer", b"fail")

    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.NOT_FOUND, "no model")


async def test_large_messages_pass(channel: Any) -> None:
    body = bytes(3_000_000)

    assert await call(channel, f"{SERVICE}/ModelInfer", body) == body


async def test_a_stream_goes_both_ways_while_it_is_open(channel: Any) -> None:
    stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(metadata=METADATA)
    for number in range(3):
        await stream.write(b"%d" % number)
        assert await asyncio.wait_for(stream.read(), 5) == b"%d" % number
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_many_calls_share_a_connection(channel: Any) -> None:
    bodies = await asyncio.gather(*(call(channel, f"{SERVICE}/ModelInfer", b"%d" % number) for number in range(100)))

    assert bodies == [b"%d" % number for number in range(100)]


async def test_without_a_gateway_a_call_is_unavailable(folder: Path) -> None:
    async with run_edge(folder, names=(CONTROL,)) as edge, open_channel(edge) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, f"{SERVICE}/ModelInfer")

    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_gateway_joins_and_leaves_without_a_reload(folder: Path, gateway: tuple[Gateway, Member]) -> None:
    async with run_edge(folder, names=(CONTROL,)) as edge, open_channel(edge) as channel:
        pids, members = edge.pids, edge.directory.state.members
        await edge.directory.tell(members=(*members, gateway[1]))
        assert await call(channel, f"{SERVICE}/ModelInfer") == b"x"
        await edge.directory.tell(members=members)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, f"{SERVICE}/ModelInfer")
        assert edge.pids == pids


async def test_a_unary_call_whose_message_does_not_come_ends_in_time(
    folder: Path, gateway: tuple[Gateway, Member]
) -> None:
    settings = ServingSettings(home=folder, edge=EdgeSettings(request_header_timeout_s=1))
    async with run_edge(folder, names=(CONTROL,), settings=settings) as edge, open_channel(edge) as channel:
        await edge.directory.tell(members=(*edge.directory.state.members, gateway[1]))
        calls = len(gateway[0].calls)
        silent = channel.stream_stream(f"{SERVICE}/ModelInfer")(metadata=METADATA)
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(silent.read(), 5)
        assert len(gateway[0].calls) == calls

        # A stream may be silent.
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(metadata=METADATA)
        await stream.write(b"a")
        await asyncio.sleep(1.5)
        await stream.write(b"b")
        assert [await stream.read() for _ in range(2)] == [b"a", b"b"]
        stream.cancel()


async def test_pings_are_answered(edge: LocalEdge) -> None:
    options = (("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_permit_without_calls", 1))
    async with open_channel(edge, *options) as channel:
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(metadata=METADATA)
        await stream.write(b"a")
        await asyncio.sleep(4)
        await stream.write(b"b")
        assert [await stream.read() for _ in range(2)] == [b"a", b"b"]
        stream.cancel()


async def test_http_1_is_not_spoken_on_the_grpc_port(edge: LocalEdge) -> None:
    async with open_raw(edge.grpc_port) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
        assert b"HTTP/1.1 2" not in await connection.read_rest_or_reset()


@pytest.mark.parametrize("method", PUBLIC)
async def test_a_public_method_takes_no_large_message(
    channel: Any, gateway: tuple[Gateway, Member], method: str
) -> None:
    before = len(gateway[0].calls)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary(method)(bytes(50_000), timeout=10)

    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(gateway[0].calls) == before
