"""Limits over several replicas: real servers, real sockets, a real database, one ledger."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.access.limits.limit import Period, find_window
from deployments.server.request import Request, Response
from deployments.state.limit_store import WindowKey
from tests.deployments.server.local_ledger import (
    LimitedReplica,
    LocalLedger,
    StartReplica,
    run_replicas,
    send,
    send_once,
)
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio
DAY = "requests/day"


@pytest.fixture
async def start_replica() -> AsyncIterator[StartReplica]:
    async with run_replicas() as start:
        yield start


async def flood(replicas: list[LimitedReplica], requests: int, name: str = "acme/ci") -> list[int]:
    """Send requests at the same time, to one replica after the other; returns the statuses, 0 for a broken one."""

    async def send_one(number: int) -> int:
        try:
            return (await send_once(replicas[number % len(replicas)].port, name)).status
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0

    return await asyncio.gather(*(send_one(number) for number in range(requests)))


async def test_a_thousand_concurrent_requests_against_room_for_a_hundred_admit_a_hundred(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"tenant:acme": {DAY: "100"}})
    replicas = [await start_replica(ledger) for _ in range(2)]

    statuses = await flood(replicas, 1000)

    assert (statuses.count(200), statuses.count(429)) == (100, 900)
    assert sum(len(each.admitted) for each in replicas) == 100


async def test_through_the_death_of_a_replica_and_of_the_ledger_no_more_are_admitted(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"tenant:acme": {DAY: "100"}})
    released = asyncio.Event()

    async def wait(request: Request) -> Response:
        await released.wait()
        return Response(200, b"{}")

    dying, living = await start_replica(ledger, wait), await start_replica(ledger)
    first = asyncio.create_task(flood([dying, living], 90))
    async with asyncio.timeout(10):
        while len(dying.admitted) < 45 or len(living.admitted) < 45:
            await asyncio.sleep(0.01)
    await dying.kill()
    broken = (await first).count(0)
    second = LocalLedger(tmp_path, {"tenant:acme": {DAY: "100"}})
    restarted = [await start_replica(second) for _ in range(2)]

    statuses = await flood(restarted, 500)

    admitted = sum(len(each.admitted) for each in (dying, living, *restarted))
    assert broken == 45
    # What the dead replica held ahead is lost.
    assert 90 < admitted <= 100
    assert statuses.count(200) == admitted - 90


async def test_more_keys_are_not_more_room_and_each_key_has_its_own_limit_too(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"tenant:acme": {DAY: "5"}, "key:ci": {DAY: "3"}})
    replica = await start_replica(ledger)

    first = [await send_once(replica.port, "acme/ci") for _ in range(4)]
    second = [await send_once(replica.port, "acme/dev") for _ in range(3)]
    other = await send_once(replica.port, "other/ci-2")

    assert [response.status for response in first] == [200, 200, 200, 429]
    assert [response.status for response in second] == [200, 200, 429]
    assert b"the key's limit of requests=3/day is reached: 3 are used; it begins anew in" in first[-1].body
    assert b"the tenant's limit of requests=5/day is reached: 5 are used" in second[-1].body
    assert (other.status, "ratelimit" in other) == (200, False)


async def test_a_refusal_and_an_answer_tell_how_the_limit_stands(tmp_path: Path, start_replica: StartReplica) -> None:
    ledger = LocalLedger(tmp_path, {"key:ci": {DAY: "2"}})
    replica = await start_replica(ledger)

    answered, _, refused = [await send_once(replica.port) for _ in range(3)]

    reset_s = find_window(Period.DAY, time.time()).end_s - time.time()
    left, _, until = answered["ratelimit"].rpartition(";t=")
    assert (left, answered["ratelimit-policy"]) == ('"requests-day";r=1', '"requests-day";q=2;w=86400')
    assert int(until) == pytest.approx(reset_s, abs=3)
    assert (refused.status, refused["ratelimit-policy"]) == (429, '"requests-day";q=2;w=86400')
    assert refused["ratelimit"] == f'"requests-day";r=0;t={refused["retry-after"]}'
    assert int(refused["retry-after"]) == pytest.approx(reset_s, abs=3)


async def test_a_failure_of_the_service_is_not_charged_and_what_is_used_is_in_the_database(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"key:ci": {DAY: "4"}})
    statuses = iter([500, 200, 503, 200, 422, 200])

    async def answer(request: Request) -> Response:
        return Response(next(statuses), b"{}")

    replica = await start_replica(ledger, answer)

    async with open_raw(replica.port) as connection:
        received = [(await send(connection)).status for _ in range(7)]
    await replica.accounts.stop()

    key = WindowKey("key:ci", DAY, int(find_window(Period.DAY, time.time()).start_s))
    assert received == [500, 200, 503, 200, 422, 200, 429]
    assert ledger.ledger._store.get_counters(key) == (4, 0)


async def test_at_most_so_many_requests_are_inside_all_replicas_at_one_time(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"tenant:acme": {"concurrent": "6"}})
    inside = most = 0

    async def wait(request: Request) -> Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.2)
        inside -= 1
        return Response(200, b"{}")

    replicas = [await start_replica(ledger, wait) for _ in range(3)]
    statuses = await flood(replicas, 60)
    await asyncio.sleep(0.6)

    assert most == 6
    assert statuses.count(429) == 60 - statuses.count(200) > 0
    # Whoever has none takes over what the others hold and do not need.
    assert (await flood([replicas[2]], 6)) == [200] * 6


@pytest.mark.parametrize("shares", [(1, 1, 1, 1), (12, 1, 0, 0)], ids=["even", "skewed"])
async def test_a_rate_holds_within_two_percent_over_four_replicas(
    tmp_path: Path, start_replica: StartReplica, shares: tuple[int, ...]
) -> None:
    rate, duration_s = 200, 4.0
    ledger = LocalLedger(tmp_path, {"tenant:acme": {"requests/second": str(rate)}})
    replicas = [await start_replica(ledger) for _ in range(4)]
    answered_s: list[float] = []
    end_s = time.monotonic() + duration_s

    async def call(replica: LimitedReplica) -> None:
        async with open_raw(replica.port) as connection:
            while time.monotonic() < end_s:
                response = await send(connection)
                if response.status == 200:
                    answered_s.append(time.monotonic())
                else:
                    await asyncio.sleep(0.005)

    started_s = time.monotonic()
    callers = [replica for replica, share in zip(replicas, shares, strict=True) for _ in range(share)]
    await asyncio.gather(*map(call, callers))

    # A second's units at the start, then so many each second.
    elapsed_s = answered_s[-1] - started_s
    assert len(answered_s) == pytest.approx(rate * (1 + elapsed_s), rel=0.02)


async def test_a_change_of_limits_is_in_force_at_once(tmp_path: Path, start_replica: StartReplica) -> None:
    ledger = LocalLedger(tmp_path, {"key:ci": {DAY: "1"}})
    replica = await start_replica(ledger)
    before = [(await send_once(replica.port)).status for _ in range(2)]

    await ledger.set_limits({"key:ci": {DAY: "2"}})
    await asyncio.sleep(0.05)
    raised = [(await send_once(replica.port)).status for _ in range(2)]
    await ledger.set_limits({})
    await asyncio.sleep(0.05)
    lifted = [(await send_once(replica.port)).status for _ in range(2)]

    assert (before, raised, lifted) == ([200, 429], [200, 429], [200, 200])


async def test_without_the_ledger_callers_with_limits_are_refused_once_their_lease_ends_and_others_go_on(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"key:ci": {DAY: "1000000"}})
    replica = await start_replica(ledger)
    end_s = time.monotonic() + 1.5
    async with open_raw(replica.port) as connection:
        # At a steady rate units are lent ahead.
        while time.monotonic() < end_s:
            assert (await send(connection)).status == 200
        ledger.is_away = True
        on_lease = (await send(connection)).status
        await asyncio.sleep(1.2)
        refused, unlimited = await send(connection), await send(connection, "acme/dev")
        ledger.is_away = False
        await asyncio.sleep(0.3)
        again = await send(connection)

    assert (on_lease, refused.status, refused["retry-after"], unlimited.status) == (200, 503, "1", 200)
    assert b"limits_unavailable" in refused.body or b"the ledger of limits does not answer" in refused.body
    assert again.status == 200


async def test_at_a_steady_rate_requests_do_not_wait_for_the_ledger(
    tmp_path: Path, start_replica: StartReplica
) -> None:
    ledger = LocalLedger(tmp_path, {"key:ci": {DAY: "1000000"}})
    replica = await start_replica(ledger)
    end_s, requests = time.monotonic() + 3, 0

    async with open_raw(replica.port) as connection:
        while time.monotonic() < end_s:
            await send(connection)
            requests += 1

    assert requests > 10 * ledger.exchanges["replica-0"]
