"""Processes that are stopped (SIGSTOP), not dead: the kernel goes on taking their connections, and nobody answers."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.edge.state import CONTROL, Member
from tests.deployments.edge import replica_process
from tests.deployments.edge.local_edge import LocalEdge, build_route, run_edge

pytestmark = pytest.mark.anyio
PATH = "/v2/models/flowers/infer"
# Two checks of 0.8 s that nobody answers, and the time between them.
MAX_DETECTION_S = 2.5


@contextlib.asynccontextmanager
async def run_process(edge: LocalEdge, name: str, duration_s: float = 0.0) -> AsyncIterator[Process]:
    """Run a replica of `flowers` in a process of its own, and let it join."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, replica_process.__file__, name, str(duration_s), stdout=PIPE
    )
    assert process.stdout
    port = int(await process.stdout.readline())
    member = Member(name, build_route("flowers"), f"127.0.0.1:{port}")
    await edge.directory.tell(members=(*edge.directory.state.members, member))
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_stopped_replica_is_out_and_what_it_had_is_answered_elsewhere(folder: Path) -> None:
    async with (
        run_edge(folder, names=(CONTROL,)) as edge,
        run_process(edge, "first", 0.3) as first,
        run_process(edge, "second"),
        edge.open_http() as http,
    ):
        requests = [asyncio.ensure_future(http.post(PATH, content=b"x" * 1000)) for _ in range(8)]
        await asyncio.sleep(0.1)
        first.send_signal(signal.SIGSTOP)
        stopped_s = time.monotonic()

        responses = await asyncio.gather(*requests)

        assert time.monotonic() - stopped_s < MAX_DETECTION_S
        assert {(each.status_code, each.json()["replica"]) for each in responses} == {(200, "second")}
        started_s = time.monotonic()
        responses = await asyncio.gather(*(http.post(PATH, content=b"x") for _ in range(8)))
        assert time.monotonic() - started_s < 0.5
        assert {(each.status_code, each.json()["replica"]) for each in responses} == {(200, "second")}

        first.send_signal(signal.SIGCONT)
        names = set[str]()
        async with asyncio.timeout(3):
            while len(names) < 2:
                responses = await asyncio.gather(*(http.post(PATH, content=b"x") for _ in range(4)))
                names |= {each.json()["replica"] for each in responses}


async def test_the_only_replica_that_is_stopped_leaves_its_requests_to_the_control_application(folder: Path) -> None:
    async with (
        run_edge(folder, names=(CONTROL,)) as edge,
        run_process(edge, "only", 1.0) as only,
        edge.open_http() as http,
    ):
        requests = [asyncio.ensure_future(http.post(PATH, content=b"body")) for _ in range(8)]
        await asyncio.sleep(0.2)
        only.send_signal(signal.SIGSTOP)
        responses = await asyncio.gather(*requests)

    assert {(each.status_code, each.json()["replica"], each.json()["bytes"]) for each in responses} == {
        (200, "shoal-control-0", 4)
    }


class VanishingNode:
    """A server that keeps the first request and takes no connection after that, as where a node has lost its power."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self.is_gone = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.is_gone.is_set():
            connection = self._stack.enter_context((await loop.sock_accept(self._listener))[0])
            if (await loop.sock_recv(connection, 10_000)).startswith(b"OPTIONS *"):
                await loop.sock_sendall(connection, b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
                connection.close()
            else:
                self.is_gone.set()
        # The kernel drops what comes when the backlog is full.
        for _ in range(4):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))


async def test_a_replica_whose_node_is_gone_is_out_and_what_it_had_is_answered_elsewhere(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        async with run_edge(folder, names=(CONTROL,)) as edge, edge.open_http() as http:
            node = VanishingNode(stack)
            running = asyncio.ensure_future(node.run())
            member = Member("gone", build_route("flowers"), f"127.0.0.1:{node.port}")
            await edge.directory.tell(members=(*edge.directory.state.members, member))
            requests = [asyncio.ensure_future(http.post(PATH, content=b"x"))]
            await node.is_gone.wait()
            await running
            await edge.add("flowers")
            requests += [asyncio.ensure_future(http.post(PATH, content=b"x")) for _ in range(20)]
            started_s = time.monotonic()
            responses = await asyncio.gather(*requests)
            duration_s = time.monotonic() - started_s

    assert {(each.status_code, each.json()["replica"]) for each in responses} == {(200, "flowers-1")}
    assert 1 < duration_s < MAX_DETECTION_S + 3


async def test_a_stopped_haproxy_is_replaced(folder: Path) -> None:
    async with run_edge(folder, names=(CONTROL, "flowers")) as edge:
        (pid,) = edge.pids
        os.kill(pid, signal.SIGSTOP)
        stopped_s = time.monotonic()

        async with asyncio.timeout(5):
            while edge.pids in ([], [pid]):
                await asyncio.sleep(0.05)
        assert time.monotonic() - stopped_s < 3
        async with edge.open_http() as http:
            responses = await asyncio.gather(*(http.post(PATH, content=b"x") for _ in range(8)))
        assert {each.status_code for each in responses} == {200}
        # A change that comes later reaches the one that runs.
        await edge.add("flowers")


async def test_a_haproxy_that_runs_is_left_alone_by_an_edge_that_was_stopped_itself(folder: Path) -> None:
    async with run_edge(folder, names=(CONTROL, "flowers")) as edge:
        pids = edge.pids
        time.sleep(1.5)  # this process is the edge's
        await asyncio.sleep(1.0)

        assert edge.pids == pids
