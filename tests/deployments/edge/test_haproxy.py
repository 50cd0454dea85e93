"""HAProxy's processes: start, reload, take-over, end."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.edge import haproxy as haproxy_module
from deployments.edge.haproxy import HAProxy
from deployments.edge.state import EdgeState, Listen
from deployments.edge.template import Files, render_config, write_files
from deployments.settings import ServingSettings
from tests.deployments.callers import PEPPER, TESTER, digest
from tests.deployments.edge.local_edge import AUTHORIZATION, KEY, SECRET, Replica, find_port, start_replica
from training.errors import ServiceError

pytestmark = pytest.mark.anyio


class Node:
    """What a HAProxy has on its node: a folder, a port, a replica."""

    def __init__(self, folder: Path, replica: Replica) -> None:
        self.folder, self.replica, self.port = folder / "edge", replica, find_port()
        self.settings = ServingSettings(home=folder)

    def render(self, haproxy: HAProxy) -> str:
        member = self.replica.member
        state = EdgeState(1, True, (member.route,), (member,), {digest(KEY): TESTER}, "", SECRET, PEPPER)
        files = Files(self.folder, haproxy.next_admin_socket())
        write_files(files, state, self.settings)
        return render_config(state, self.settings, Listen("127.0.0.1", self.port, find_port()), files)

    async def get_status(self) -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"http://127.0.0.1:{self.port}/v2/models/flowers"
            return (await http.get(url, headers=AUTHORIZATION)).status_code

    def find_pids(self) -> list[int]:
        """Every HAProxy that runs with files of this folder."""
        return [
            process.pid
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and any(str(self.folder) in word for word in process.info["cmdline"] or ())
        ]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    replica = await start_replica("flowers", 1)
    node = Node(tmp_path, replica)
    yield node
    for pid in node.find_pids():
        os.kill(pid, signal.SIGKILL)
    await replica.server.drain(0)


async def wait_for_pids(node: Node, count: int) -> list[int]:
    async with asyncio.timeout(5):
        while len(pids := node.find_pids()) != count:
            await asyncio.sleep(0.05)
    return pids


async def test_a_started_haproxy_answers_and_a_stopped_one_leaves_no_process(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    assert not haproxy.is_alive()
    await haproxy.start(node.render(haproxy))
    assert haproxy.is_alive()
    assert await node.get_status() == 200

    await haproxy.stop()

    assert not haproxy.is_alive()
    assert node.find_pids() == []
    with pytest.raises(httpx.ConnectError):
        await node.get_status()


async def test_what_it_writes_is_closed_to_other_users(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    await haproxy.start(node.render(haproxy))
    try:
        assert node.folder.stat().st_mode & 0o777 == 0o700
        for file in node.folder.iterdir():
            assert file.name == "haproxy.log" or file.stat().st_mode & 0o777 == 0o600, file
        assert SECRET in (node.folder / "haproxy-1.cfg").read_text()
    finally:
        await haproxy.stop()


async def test_reloads_under_load_lose_no_request(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    await haproxy.start(node.render(haproxy))
    is_over, statuses = asyncio.Event(), list[int]()
    url = f"http://127.0.0.1:{node.port}/v2/models/flowers/infer"

    async def load(keeps_alive: bool) -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if keeps_alive else 0)
        async with httpx.AsyncClient(trust_env=False, headers=AUTHORIZATION, limits=limits) as http:
            while not is_over.is_set():
                statuses.append((await http.post(url, content=b"x" * 2000)).status_code)

    callers = [asyncio.ensure_future(load(number % 2 == 0)) for number in range(8)]
    try:
        for _ in range(5):
            await haproxy.start(node.render(haproxy))
            await asyncio.sleep(0.1)
        is_over.set()
        await asyncio.gather(*callers)
        assert set(statuses) == {200}
        assert len(statuses) >= 20
        # Those before have ended with their connections.
        await wait_for_pids(node, 1)
    finally:
        await haproxy.stop()


async def test_old_files_are_deleted(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    for _ in range(3):
        await haproxy.start(node.render(haproxy))
        await wait_for_pids(node, 1)
    await haproxy.start(node.render(haproxy))
    try:
        assert len(list(node.folder.glob("haproxy-*.cfg"))) <= 2
        assert len(list(node.folder.glob("admin-*.sock"))) <= 2
    finally:
        await haproxy.stop()


async def test_a_successor_takes_over_what_its_predecessor_left(node: Node) -> None:
    predecessor = HAProxy(node.folder)
    await predecessor.start(node.render(predecessor))
    (pid,) = node.find_pids()

    successor = HAProxy(node.folder)
    assert successor.is_alive()
    answers = await successor.run_commands(["show info"])
    assert f"Pid: {pid}" in answers[0]
    assert await node.get_status() == 200

    await successor.start(node.render(successor))
    assert await node.get_status() == 200
    (new_pid,) = await wait_for_pids(node, 1)
    assert new_pid != pid
    await successor.stop()
    assert node.find_pids() == []


async def test_a_killed_process_is_seen_and_started_again(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    await haproxy.start(node.render(haproxy))
    os.kill(node.find_pids()[0], signal.SIGKILL)
    async with asyncio.timeout(2):
        while haproxy.is_alive():
            await asyncio.sleep(0.02)
    with pytest.raises(httpx.ConnectError):
        await node.get_status()

    await haproxy.start(node.render(haproxy))

    assert haproxy.is_alive()
    assert await node.get_status() == 200
    await haproxy.stop()


async def test_a_refused_configuration_says_why_and_what_ran_goes_on(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    config = node.render(haproxy)
    await haproxy.start(config)
    (pid,) = node.find_pids()

    with pytest.raises(ServiceError, match=r"HAProxy ended at its start: .*unknown keyword 'nonsense'"):
        await haproxy.start(config + "\n    nonsense\n")

    assert haproxy.is_alive()
    assert node.find_pids() == [pid]
    assert await node.get_status() == 200
    await haproxy.start(node.render(haproxy))
    assert await node.get_status() == 200
    await haproxy.stop()


async def test_a_binary_that_is_none_is_refused(node: Node) -> None:
    haproxy = HAProxy(node.folder, "/bin/false")

    with pytest.raises(ServiceError, match="HAProxy ended at its start"):
        await haproxy.start("")


async def test_commands_are_answered_in_their_order(node: Node) -> None:
    haproxy = HAProxy(node.folder)
    await haproxy.start(node.render(haproxy))

    answers = await haproxy.run_commands(["show version", "nonsense", "get map /nothing x"])

    assert answers[0].startswith("2.8")
    assert "Unknown command" in answers[1]
    assert "Unknown map" in answers[2]
    await haproxy.stop()


async def test_haproxy_ends_when_the_watched_process_ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(haproxy_module.os, "getppid", lambda: watched.pid)
    haproxy = HAProxy(node.folder)
    await haproxy.start(node.render(haproxy))
    await asyncio.sleep(1.5)
    assert haproxy.is_alive()
    watched.kill()

    # Not reaped: a zombie has ended, too.
    await wait_for_pids(node, 0)

    watched.wait()
    assert not haproxy.is_alive()


async def test_haproxy_outlives_the_process_that_started_it(node: Node) -> None:
    config = node.render(HAProxy(node.folder))
    (node.folder / "config").write_text(config)
    code = (
        "import asyncio, sys, pathlib; from deployments.edge.haproxy import HAProxy\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "asyncio.run(HAProxy(folder).start((folder / 'config').read_text()))\n"
        "import os; os._exit(0)"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(node.folder)], check=True)

    assert await node.get_status() == 200
    await HAProxy(node.folder).stop()
    assert node.find_pids() == []


@pytest.mark.parametrize("forgets", [False, True], ids=["the same edge", "its successor"])
async def test_a_killed_process_is_started_again_while_one_before_it_finishes_a_request(
    node: Node, forgets: bool
) -> None:
    haproxy = HAProxy(node.folder)
    await haproxy.start(node.render(haproxy))
    (old_pid,) = node.find_pids()
    # Half of a request's body: the process does not end before the rest has come.
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    lines = ["POST /v2/models/flowers/infer HTTP/1.1", "host: t", "content-length: 50000"]
    lines += [f"{name}: {value}" for name, value in AUTHORIZATION.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + b"x" * 40_000)
    await writer.drain()
    await asyncio.sleep(0.2)
    await haproxy.start(node.render(haproxy))
    (new_pid,) = set(node.find_pids()) - {old_pid}
    os.kill(new_pid, signal.SIGKILL)
    async with asyncio.timeout(2):
        while haproxy.is_alive():
            await asyncio.sleep(0.02)

    if forgets:
        haproxy = HAProxy(node.folder)
        assert not haproxy.is_alive()
    await haproxy.start(node.render(haproxy))

    assert await node.get_status() == 200
    writer.write(b"x" * 10_000)
    assert (await reader.read(12)) == b"HTTP/1.1 200"
    writer.close()
    await haproxy.stop()
