"""Replicas that are gone without a word: out at once, and what they did not answer is sent elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.edge.state import CONTROL, Member
from deployments.server.request import Request, Response
from tests.deployments.edge.local_edge import LocalEdge, build_route, find_port, run_edge
from tests.deployments.server.apps import make_app

pytestmark = pytest.mark.anyio
PATH = "/v2/models/flowers/infer"


async def add_member(edge: LocalEdge, name: str, port: int) -> None:
    """Let a port join, whatever is behind it."""
    member = Member(f"odd-{port}", build_route(name), f"127.0.0.1:{port}")
    await edge.directory.tell(members=(*edge.directory.state.members, member))


class DyingReplica:
    """Takes a request, and ends its connection without an answer."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer, self.requests = answer, 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(100_000):
            self.requests += 1
            writer.write(self.answer)
        writer.close()

    def stop(self) -> None:
        self._server.close()


@pytest.fixture
async def edge(folder: Path) -> AsyncIterator[LocalEdge]:
    async with run_edge(folder, names=(CONTROL, "flowers")) as edge:
        yield edge


async def test_requests_to_a_replica_that_refuses_connections_are_answered_elsewhere(edge: LocalEdge) -> None:
    await add_member(edge, "flowers", find_port())

    async with edge.open_http() as http:
        responses = await asyncio.gather(*(http.post(PATH, content=b"x") for _ in range(20)))

    assert {(each.status_code, each.json()["replica"]) for each in responses} == {(200, "flowers-1")}


async def test_a_replica_that_is_gone_gets_no_request_and_is_back_when_it_listens(edge: LocalEdge) -> None:
    second = await edge.add("flowers")
    async with edge.open_http() as http:
        await second.server.drain(0)
        for _ in range(20):
            response = await http.post(PATH, content=b"x")
            assert (response.status_code, response.json()["replica"]) == (200, "flowers-1")
        # Another server at its place, as after a pause of its machine.
        port = int(second.member.address.partition(":")[2])
        second.server.is_draining = False
        await second.server.start("127.0.0.1", port)
        names: set[str] = set()
        deadline = time.monotonic() + 5
        while len(names) < 2 and time.monotonic() < deadline:
            responses = await asyncio.gather(*(http.post(PATH, content=b"x") for _ in range(6)))
            names |= {response.json()["replica"] for response in responses}

    assert names == {"flowers-1", "flowers-2"}


async def test_the_last_replica_that_is_gone_leaves_its_requests_to_the_control_application(edge: LocalEdge) -> None:
    await edge.replicas[1].server.drain(0)

    async with edge.open_http() as http:
        for _ in range(5):
            response = await http.post(PATH, content=b"body")
            assert (response.status_code, response.json()["replica"]) == (200, "shoal-control-0")
            assert response.json()["bytes"] == 4


async def test_a_request_whose_replica_dies_is_sent_elsewhere_with_its_body(edge: LocalEdge) -> None:
    dying = DyingReplica()
    await add_member(edge, "flowers", await dying.start())
    async with edge.open_http() as http:
        responses = await asyncio.gather(*(http.post(PATH, content=b"x" * 1000) for _ in range(20)))
    dying.stop()

    assert dying.requests
    assert {(each.status_code, each.json()["replica"]) for each in responses} == {(200, "flowers-1")}
    assert {each.json()["bytes"] for each in responses} == {1000}


async def test_a_request_that_kills_each_replica_ends_after_three_more_attempts(folder: Path) -> None:
    dying = [DyingReplica() for _ in range(6)]
    async with run_edge(folder, names=()) as edge, edge.open_http() as http:
        for each in dying:
            await add_member(edge, "flowers", await each.start())
        response = await http.post(PATH, content=b"x")
    for each in dying:
        each.stop()

    assert response.status_code in (502, 503)
    assert response.json()["error"]["code"] in ("bad_gateway", "unavailable")
    assert 1 <= sum(each.requests for each in dying) <= 4


async def test_an_answer_that_has_begun_is_not_begun_again(folder: Path) -> None:
    dying = DyingReplica(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
    async with run_edge(folder, names=(CONTROL,)) as edge, edge.open_http() as http:
        await add_member(edge, "flowers", await dying.start())
        with pytest.raises(Exception, match=r"peer closed|incomplete"):
            await http.post(PATH, content=b"x")
    dying.stop()

    assert dying.requests == 1


async def test_what_is_no_answer_becomes_a_502_in_json(folder: Path) -> None:
    dying = DyingReplica(b"nonsense\r\n\r\n")
    async with run_edge(folder, names=()) as edge, edge.open_http() as http:
        await add_member(edge, "flowers", await dying.start())
        response = await http.post(PATH, content=b"x", headers={"x-request-id": "r1"})
    dying.stop()

    assert response.status_code == 502
    assert response.json()["error"] | {"message": ""} == {"code": "bad_gateway", "message": "", "request_id": "r1"}


async def test_a_replica_learns_that_the_caller_has_gone(edge: LocalEdge) -> None:
    ends: asyncio.Queue[str] = asyncio.Queue()
    is_inside = asyncio.Event()

    async def wait(request: Request) -> Response:
        is_inside.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.put_nowait("canceled")
            raise
        return Response(200, b"never")

    await edge.add("slow", make_app(wait))
    async with edge.open_http() as http:
        request = asyncio.ensure_future(http.post("/v2/models/slow/infer", content=b"x" * 1000))
        await is_inside.wait()
        request.cancel()

    assert await asyncio.wait_for(ends.get(), 3) == "canceled"


async def test_load_goes_to_the_replica_with_the_fewest_requests(edge: LocalEdge) -> None:
    may_end = asyncio.Event()
    count = 0

    async def wait(request: Request) -> Response:
        nonlocal count
        count += 1
        await may_end.wait()
        return Response(200, b"{}")

    for _ in range(2):
        await edge.add("busy", make_app(wait))
    async with edge.open_http() as http:
        requests = [asyncio.ensure_future(http.get("/v2/models/busy")) for _ in range(10)]
        async with asyncio.timeout(5):
            while count < 10:
                await asyncio.sleep(0.02)
        assert [edge.replicas[-number].server.ongoing for number in (1, 2)] == [5, 5]
        may_end.set()
        await asyncio.gather(*requests)
