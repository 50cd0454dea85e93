"""Replicas on the edge's own machine are reached by their Unix sockets, others by TCP."""

import asyncio
import json
import stat
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.edge import replica_server
from deployments.edge.replica_server import MAX_SOCKET_PATH
from deployments.edge.state import CONTROL, EDGE_DIR_VARIABLE, LocalSocket, identify_machine
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from tests.deployments.edge.local_edge import LocalEdge, Replica, run_edge, start_replica
from tests.deployments.server.apps import make_app

pytestmark = pytest.mark.anyio
PATH = "/v2/models/flowers/infer"


@pytest.fixture
async def edge(folder: Path) -> AsyncIterator[LocalEdge]:
    async with run_edge(folder, names=(CONTROL,)) as edge:
        yield edge


def build_app(name: str) -> HttpApp:
    """An application that answers with its name, and how the request came."""

    async def answer(request: Request) -> Response:
        address = request._connection.transport.get_extra_info("sockname")  # type: ignore[attr-defined]
        return Response(200, json.dumps([name, "unix" if isinstance(address, str) else "tcp"]).encode())

    return make_app(answer)


async def add_replica(edge: LocalEdge, path: Path, machine: str, number: int = 0) -> Replica:
    """Let a replica join that listens on a socket as well."""
    replica = await start_replica("flowers", number, build_app(f"replica {number}"))
    await replica.server.start_local(str(path))
    replica = replace(replica, member=replace(replica.member, local_socket=LocalSocket(str(path), machine)))
    edge.replicas.append(replica)
    await edge.directory.tell(members=(*edge.directory.state.members, replica.member))
    return replica


async def call(edge: LocalEdge, count: int) -> Counter[tuple[str, str]]:
    async with edge.open_http() as http:
        responses = await asyncio.gather(*(http.post(PATH, content=b"x") for _ in range(count)))
    assert {response.status_code for response in responses} == {200}
    return Counter(tuple(response.json()) for response in responses)


async def test_a_replica_on_this_machine_is_reached_by_its_socket(edge: LocalEdge, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    await add_replica(edge, path, identify_machine())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await call(edge, 20) == {("replica 0", "unix"): 20}

    # Also after a reload, which renders the configuration anew.
    await edge.add("roses")
    assert await call(edge, 20) == {("replica 0", "unix"): 20}


async def test_a_replica_on_another_machine_is_reached_by_tcp(edge: LocalEdge, tmp_path: Path) -> None:
    # With the same folder, as where SHOAL_HOME is shared.
    await add_replica(edge, tmp_path / "r.sock", "another machine")
    assert await call(edge, 20) == {("replica 0", "tcp"): 20}


async def test_a_replica_whose_socket_is_not_to_be_seen_is_reached_by_tcp(edge: LocalEdge, tmp_path: Path) -> None:
    # As in another container.
    path = tmp_path / "r.sock"
    replica = await start_replica("flowers", 0, build_app("replica 0"))
    local_socket = LocalSocket(str(path), identify_machine())
    await edge.directory.tell(
        members=(*edge.directory.state.members, replace(replica.member, local_socket=local_socket))
    )
    assert await call(edge, 20) == {("replica 0", "tcp"): 20}


async def test_requests_to_a_socket_where_nobody_listens_any_more_are_answered_elsewhere(
    edge: LocalEdge, tmp_path: Path
) -> None:
    dead = await add_replica(edge, tmp_path / "0.sock", identify_machine(), 0)
    await add_replica(edge, tmp_path / "1.sock", identify_machine(), 1)
    assert len(await call(edge, 20)) == 2
    # As if it was killed: its socket stays.
    await dead.server.drain(0)
    assert Path(tmp_path / "0.sock").exists()
    assert await call(edge, 40) == {("replica 1", "unix"): 40}


@pytest.mark.parametrize(("length", "has_socket"), [(60, True), (200, False)])
def test_a_folder_whose_name_is_too_long_for_a_socket_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, has_socket: bool
) -> None:
    folder = tmp_path / ("x" * max(1, length - len(str(tmp_path))))
    monkeypatch.setenv(EDGE_DIR_VARIABLE, str(folder))
    chosen = replica_server._choose_local_socket("replica")
    assert (chosen is not None) == (has_socket and len(str(folder)) < MAX_SOCKET_PATH - 30)
    monkeypatch.delenv(EDGE_DIR_VARIABLE)
    assert replica_server._choose_local_socket("replica") is None
