"""The edge brings about what the directory tells, without losing a request."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from deployments.edge import edge as edge_module
from deployments.edge.state import CONTROL
from deployments.server.request import Request, Response
from tests.deployments.edge.local_edge import AUTHORIZATION, LocalEdge, run_edge
from tests.deployments.server.apps import make_app

pytestmark = pytest.mark.anyio
PATH = "/v2/models/flowers"


async def list_answering(edge: LocalEdge, path: str = PATH, count: int = 12) -> set[str]:
    """Which replicas answer, of concurrent requests."""
    async with edge.open_http() as http:
        responses = await asyncio.gather(*(http.get(path) for _ in range(count)))
    assert {response.status_code for response in responses} == {200}
    return {response.json()["replica"] for response in responses}


async def test_a_replica_joins_and_leaves_without_a_reload(folder: Path) -> None:
    async with run_edge(folder) as edge:
        pids = edge.pids
        assert await list_answering(edge) == {"flowers-1"}

        new = await edge.add("flowers")
        assert await list_answering(edge) == {"flowers-1", "flowers-3"}
        await edge.remove(edge.replicas[1])
        assert await list_answering(edge) == {"flowers-3"}
        await edge.remove(new)
        assert await list_answering(edge) == {"shoal-control-0"}
        await edge.directory.tell(members=(*edge.directory.state.members, edge.replicas[1].member))
        assert await list_answering(edge) == {"flowers-1"}

        assert edge.pids == pids


async def test_a_replica_that_leaves_finishes_what_it_has(folder: Path) -> None:
    is_inside, may_end = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Response:
        is_inside.set()
        await may_end.wait()
        return Response(200, b"late")

    async with run_edge(folder, names=(CONTROL,)) as edge, edge.open_http() as http:
        replica = await edge.add("flowers", make_app(answer))
        request = asyncio.ensure_future(http.get(PATH))
        await is_inside.wait()
        await edge.remove(replica)
        # HAProxy keeps the server while it has a request, and deletes it later.
        assert await list_answering(edge) == {"shoal-control-0"}
        may_end.set()
        assert (await request).text == "late"
        await asyncio.sleep(0.1)
        await edge.directory.tell()
        (answer,) = await edge.haproxy.run_commands(["show servers state model.flowers"])
        assert replica.member.id not in answer


async def test_traffic_goes_on_while_replicas_are_replaced(folder: Path) -> None:
    async with run_edge(folder) as edge:
        is_over, statuses = asyncio.Event(), list[int]()

        async def load() -> None:
            async with edge.open_http() as http:
                while not is_over.is_set():
                    statuses.append((await http.post(f"{PATH}/infer", content=b"x")).status_code)

        callers = [asyncio.ensure_future(load()) for _ in range(6)]
        for _ in range(4):
            old = edge.replicas[-1] if len(edge.replicas) > 3 else edge.replicas[1]
            await edge.add("flowers")
            await edge.remove(old)
            await old.server.drain(2)
        is_over.set()
        await asyncio.gather(*callers)

    assert set(statuses) == {200}


async def test_a_new_model_gets_its_own_backend_and_a_deleted_one_loses_it(folder: Path) -> None:
    async with run_edge(folder) as edge:
        tulips = await edge.add("tulips")
        assert await list_answering(edge, "/v2/models/tulips") == {"tulips-3"}
        await edge.remove(tulips)

        # It was in no desired state; the control application says that there is no such model.
        assert await list_answering(edge, "/v2/models/tulips") == {"shoal-control-0"}
        assert await list_answering(edge) == {"flowers-1"}


async def test_a_deployed_model_waits_for_its_first_replica_at_the_control_application(folder: Path) -> None:
    async with run_edge(folder) as edge:
        routes = edge.directory.state.routes
        await edge.directory.tell(routes=(*routes, replace(routes[0], name="tulips")))
        assert await list_answering(edge, "/v2/models/tulips") == {"shoal-control-0"}
        pids = edge.pids

        await edge.add("tulips")

        assert await list_answering(edge, "/v2/models/tulips") == {"tulips-3"}
        assert edge.pids == pids


async def test_a_killed_haproxy_is_back_with_everything_it_knew(folder: Path) -> None:
    async with run_edge(folder) as edge:
        new = await edge.add("flowers")
        await edge.remove(edge.replicas[1])
        os.kill(edge.pids[0], signal.SIGKILL)

        async with asyncio.timeout(2):
            while await is_refused(edge):
                await asyncio.sleep(0.02)
        assert await list_answering(edge) == {new.member.id}
        await edge.edge.check_health()


async def test_members_that_a_new_directory_does_not_know_yet_go_on(folder: Path) -> None:
    async with run_edge(folder) as edge:
        control = edge.replicas[0].member
        await edge.directory.tell(members=(), is_complete=False)
        assert await list_answering(edge) == {"flowers-1"}
        assert await list_answering(edge, "/v2") == {control.id}

        await edge.directory.tell(members=(control,), is_complete=True)
        assert await list_answering(edge) == {control.id}


async def test_a_change_that_haproxy_refuses_is_made_by_a_reload(folder: Path) -> None:
    async with run_edge(folder) as edge:
        (pid,) = edge.pids
        await edge.haproxy.run_commands(["add map " + f"{folder}/edge/keys.map 00 odd"])
        # The edge does not know of this server.
        await edge.haproxy.run_commands(["add server model.flowers/flowers-3 127.0.0.1:1"])

        await edge.add("flowers")

        assert pid != edge.pids[-1]
        assert await list_answering(edge) == {"flowers-1", "flowers-3"}


async def is_refused(edge: LocalEdge) -> bool:
    async with edge.open_http() as http:
        try:
            await http.get(PATH)
        except httpx.TransportError:
            return True
    return False


async def test_a_successor_takes_haproxy_over_without_a_failed_request(folder: Path) -> None:
    async with run_edge(folder) as first:
        (pid,) = first.pids
        is_over, statuses = asyncio.Event(), list[int]()

        async def load() -> None:
            async with first.open_http() as http:
                while not is_over.is_set():
                    statuses.append((await http.get(PATH)).status_code)

        callers = [asyncio.ensure_future(load()) for _ in range(4)]
        # As where its process is killed.
        for task in first.edge._tasks:
            task.cancel()
        state = first.directory.state
        fields = {"routes": state.routes, "members": state.members}
        async with run_edge(folder, names=(), ports=(first.http_port, first.grpc_port), **fields) as second:
            await asyncio.sleep(0.3)
            is_over.set()
            await asyncio.gather(*callers)
            assert second.pids[-1] != pid
            assert await list_answering(second) == {"flowers-1"}
        assert first.pids == second.pids == []

    assert set(statuses) == {200}


async def test_requests_wait_for_no_other_callers_slow_body(folder: Path) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:
        slow = [asyncio.ensure_future(http.post(PATH, content=drip(), headers=AUTHORIZATION)) for _ in range(20)]
        await asyncio.sleep(0.1)

        async with asyncio.timeout(2):
            assert await list_answering(edge) == {"flowers-1"}

        for each in slow:
            assert (await each).status_code == 200


async def drip() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield b"x"
        await asyncio.sleep(0.05)


async def test_each_new_route_is_one_reload(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between a reload's end of the last process and its own, whoever watches sees no process.
    monkeypatch.setattr(edge_module, "SUPERVISE_INTERVAL_S", 0.001)
    async with run_edge(folder, names=(CONTROL,)) as edge:
        first = edge.haproxy._number
        for number in range(4):
            await edge.add(f"route-{number}")
        await asyncio.sleep(0.3)
        assert edge.haproxy._number == first + 4
        assert len(edge.pids) == 1


async def test_an_undeployed_model_gets_nothing_more_from_a_connection_that_was_idle(folder: Path) -> None:
    async with run_edge(folder, names=(CONTROL, "flowers")) as edge, edge.open_http() as http:
        flowers = edge.replicas[1]
        assert (await http.get(PATH)).json()["replica"] == flowers.member.id
        # Its server goes on, as it does until its last request has ended.
        await edge.directory.tell(
            members=tuple(each for each in edge.directory.state.members if each != flowers.member), routes=()
        )
        assert (await http.get(PATH)).json()["replica"] == "shoal-control-0"
