"""Canaries at the edge: who is split by his key stays on one side, and a weight changes without a reload."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest

from deployments.edge.splits import CallOrigin, Splits
from deployments.edge.state import CONTROL, SPLIT_BUCKETS, Instructions, Split
from deployments.rollout.canary import _HEADER
from tests.deployments.callers import digest, encode_caller
from tests.deployments.edge.local_edge import AUTHORIZATION, LocalEdge, run_edge

pytestmark = pytest.mark.anyio
PATH = "/v2/models/flowers/predict"
CALLERS = [f"caller-{number}" for number in range(50)]
NAMES = (CONTROL, "flowers", "flowers.canary", "roses")
STABLE, CANARY = "flowers-1", "flowers-canary-2"


def split(percent: float, by: str = "caller") -> tuple[Split, ...]:
    return (Split("flowers", 3, round(percent * SPLIT_BUCKETS / 100), by),)


async def find_replicas(edge: LocalEdge, headers: Iterable[dict[str, str]], path: str = PATH) -> list[str]:
    # Few connections: each costs more than its requests.
    async with edge.open_http(limits=httpx.Limits(max_connections=4)) as http:
        responses = await asyncio.gather(*(http.get(path, headers=each) for each in headers))
    assert {response.status_code for response in responses} == {200}
    return [response.json()["replica"] for response in responses]


async def list_canary_callers(edge: LocalEdge) -> set[str]:
    replicas = await find_replicas(edge, ({"authorization": f"Bearer {caller}"} for caller in CALLERS))
    assert set(replicas) <= {STABLE, CANARY}
    return {caller for caller, replica in zip(CALLERS, replicas, strict=True) if replica == CANARY}


async def test_a_higher_weight_only_adds_callers_and_needs_no_reload(folder: Path) -> None:
    keys = {digest(caller): encode_caller(caller) for caller in CALLERS}
    async with run_edge(folder, NAMES, keys=keys, splits=split(0)) as edge:
        pids, before = edge.pids, set[str]()
        for percent in (0, 25, 60, 100):
            await edge.directory.tell(splits=split(percent))
            callers = await list_canary_callers(edge)
            assert before <= callers
            # Four standard deviations of the number of callers among 50.
            assert abs(len(callers) - percent / 2) <= 4 * (percent / 2 * (1 - percent / 100)) ** 0.5
            before = callers
        assert edge.pids == pids

        await edge.directory.tell(splits=split(60))
        assert await list_canary_callers(edge) < before
        # Rolled back: at once, all are where they were.
        await edge.directory.tell(splits=split(0))
        assert await list_canary_callers(edge) == set()
        assert edge.pids == pids


async def test_requests_of_one_caller_are_split_by_their_ids(folder: Path) -> None:
    async with run_edge(folder, NAMES, splits=split(25, "request")) as edge:
        replicas = Counter(await find_replicas(edge, ({} for _ in range(100))))
        assert replicas[CANARY] + replicas[STABLE] == 100
        assert 8 <= replicas[CANARY] <= 42

        again = await find_replicas(edge, ({"x-request-id": "one"} for _ in range(5)))
        assert len(set(again)) == 1


async def test_requests_are_split_by_a_header_and_without_it_by_their_caller(folder: Path) -> None:
    async with run_edge(folder, NAMES, splits=split(50, "header:x-user")) as edge:
        users = [{"x-user": f"user-{number}"} for number in range(20)]
        first, second = await find_replicas(edge, users), await find_replicas(edge, users)
        assert first == second
        assert {STABLE, CANARY} == set(first)

        assert len(set(await find_replicas(edge, ({} for _ in range(5))))) == 1


@pytest.mark.parametrize("by", ["caller", "request", "header:x-user"])
async def test_a_call_by_a_handle_is_on_the_side_where_the_edge_would_send_it(folder: Path, by: str) -> None:
    keys = {digest(caller): encode_caller(caller) for caller in CALLERS}
    splits = Splits()
    splits.follow(Instructions(splits=split(40, by)))
    users = ["", "a", "a,b", "a  b; c", "a" * 200]
    origins = [
        CallOrigin(caller, f"request-{number}", {"x-user": users[number % len(users)]} if number % 7 else {})
        for number, caller in enumerate(CALLERS)
    ]
    headers = [
        {"authorization": f"Bearer {each.caller}", "x-request-id": each.request_id, **each.headers} for each in origins
    ]
    chosen = [splits.choose("flowers", "", origin) for origin in origins]

    async with run_edge(folder, NAMES, keys=keys, splits=split(40, by)) as edge:
        replicas = await find_replicas(edge, headers)

    assert [replica == CANARY for replica in replicas] == [name == "flowers.canary" for name in chosen]
    assert len(set(chosen)) == 2


async def test_every_header_that_a_rollout_takes_is_one_for_haproxy(folder: Path) -> None:
    marks = [mark for mark in map(chr, range(256)) if _HEADER.fullmatch(f"header:x{mark}y")]
    names = [f"header:x{mark}y" for mark in marks if not mark.isalnum()]
    assert names

    async with run_edge(folder, NAMES, splits=split(100, f"header:x{''.join(marks)}y")) as edge:
        assert await find_replicas(edge, [{}]) == [CANARY]
        for name in names:
            await edge.directory.tell(splits=split(0, name))
            assert await find_replicas(edge, [{}]) == [STABLE]


async def test_bytes_of_a_header_and_its_last_value_decide_on_both_sides(folder: Path) -> None:
    values = [(f"jörg-{number}".encode(),) for number in range(8)]
    values += [(f"jörg-{number}".encode("latin-1"),) for number in range(8)]
    values += [(f"a-{number}".encode(), f"b-{number}".encode()) for number in range(8)]
    fields = [[(b"x-user", value) for value in each] for each in values]
    splits = Splits()
    splits.follow(Instructions(splits=split(50, "header:x-user")))
    chosen = [splits.choose("flowers", "", CallOrigin.of_fields("", each)) for each in fields]

    async with run_edge(folder, NAMES, splits=split(50, "header:x-user")) as edge, edge.open_http() as http:
        requests = [http.build_request("GET", PATH, headers=[*AUTHORIZATION.items(), *each]) for each in fields]
        replicas = [(await http.send(request)).json()["replica"] for request in requests]

    assert [replica == CANARY for replica in replicas] == [name == "flowers.canary" for name in chosen]
    assert len(set(chosen)) == 2


@pytest.mark.parametrize(
    ("path", "percent", "replica"),
    [
        ("/v2/models/flowers/versions/3/predict", 0, CANARY),
        ("/v2/models/flowers/versions/3", 0, CANARY),
        ("/v2/models/flowers/versions/2/infer", 100, STABLE),
        ("/v2/models/flowers/versions/33", 100, STABLE),
        ("/v2/models/flowers", 100, CANARY),
        ("/v2/models/roses/versions/3", 100, "roses-3"),
        ("/v2/models/roses", 100, "roses-3"),
        ("/v2", 100, "shoal-control-0"),
        ("/api/v1/models/flowers", 100, "shoal-control-0"),
    ],
)
async def test_a_version_that_a_path_names_is_found_on_its_side(
    splitting_edge: LocalEdge, path: str, percent: float, replica: str
) -> None:
    await splitting_edge.directory.tell(splits=split(percent))

    assert await find_replicas(splitting_edge, [{}], path) == [replica]


async def test_where_the_canary_has_no_replica_its_requests_are_answered(folder: Path) -> None:
    async with run_edge(folder, NAMES, splits=split(100)) as edge:
        canary = edge.replicas[2]
        await edge.remove(canary)
        assert await find_replicas(edge, [{}]) == ["shoal-control-0"]

        # And where the rollout has ended, there is nothing left of it.
        routes = tuple(route for route in edge.directory.state.routes if route.name != "flowers.canary")
        await edge.directory.tell(splits=(), routes=routes)
        assert await find_replicas(edge, [{}]) == [STABLE]


async def test_no_request_fails_while_weights_and_rollouts_change(folder: Path) -> None:
    async with run_edge(folder, NAMES) as edge:
        is_over, statuses = asyncio.Event(), list[int]()

        async def load() -> None:
            async with edge.open_http() as http:
                while not is_over.is_set():
                    statuses.append((await http.post(PATH, content=b"x")).status_code)

        callers = [asyncio.ensure_future(load()) for _ in range(4)]
        for percent in (5, 50, 100, 0):
            await edge.directory.tell(splits=split(percent, "request"))
            await asyncio.sleep(0.05)
        await edge.directory.tell(splits=())
        is_over.set()
        await asyncio.gather(*callers)

    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_a_map_of_weights_is_closed_to_other_users(splitting_edge: LocalEdge) -> None:
    file = splitting_edge.haproxy._folder / "splits.map"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture(scope="module")
async def splitting_edge(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str):  # type: ignore[no-untyped-def]
    async with run_edge(tmp_path_factory.mktemp("splits"), NAMES, splits=split(0)) as edge:
        yield edge


async def test_a_callers_own_header_of_that_name_decides_nothing_else(splitting_edge: LocalEdge) -> None:
    await splitting_edge.directory.tell(splits=split(0))
    async with splitting_edge.open_http() as http:
        response: httpx.Response = await http.get(PATH, headers={"x-shoal-split": "canary"})
    assert response.json()["replica"] == STABLE
