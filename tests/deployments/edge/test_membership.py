"""A replica's membership, with a directory that is away for a while; without Ray."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from deployments.edge import membership as membership_module
from deployments.edge.membership import Membership, fetch_edge_secret
from deployments.edge.state import Member, Route
from deployments.scaling.report import ReplicaReport

pytestmark = pytest.mark.anyio
MEMBER = Member("replica-1", Route("flowers", 30.0), "127.0.0.1:1")


class FakeDirectory:
    """Records calls; while it is away, each raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.error: Exception | None = None
        self.delay_s = 0.0

    def __getattr__(self, name: str) -> Any:
        async def remote(*args: Any) -> str:
            if self.error:
                raise self.error
            self.calls.append((name, *args))
            await asyncio.sleep(self.delay_s)
            return "of the edge"

        return type("Method", (), {"remote": staticmethod(remote)})

    def list_names(self) -> list[str]:
        return [name for name, *_ in self.calls]


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> FakeDirectory:
    directory = FakeDirectory()
    monkeypatch.setattr(membership_module, "get_directory", lambda: directory)
    monkeypatch.setattr(membership_module, "RENEW_INTERVAL_S", 0.05)
    monkeypatch.setattr(membership_module, "RETRY_INTERVAL_S", 0.05)
    monkeypatch.setattr(membership_module, "LEAVE_TIMEOUT_S", 0.3)
    return directory


async def test_a_member_joins_renews_and_leaves(directory: FakeDirectory) -> None:
    membership = Membership(MEMBER)
    await membership.join()
    await asyncio.sleep(0.2)
    await membership.leave()
    names = directory.list_names()
    await asyncio.sleep(0.2)

    assert names[:2] == ["join", "renew"]
    assert names[-1] == "leave"
    assert names == directory.list_names()
    assert {args for _, *args in map(tuple, directory.calls[:-1]) for args in args} == {MEMBER, None}  # type: ignore[misc]
    assert directory.calls[-1] == ("leave", MEMBER.id)


async def test_a_member_goes_on_renewing_while_the_directory_is_away(directory: FakeDirectory) -> None:
    membership = Membership(MEMBER)
    await membership.join()
    for error in (ActorUnavailableError("away", None), ActorDiedError(), ValueError("no such actor")):
        directory.error = error
        await asyncio.sleep(0.12)
    directory.error, directory.calls = None, []
    await asyncio.sleep(0.15)

    assert directory.list_names()[0] == "renew"
    await membership.leave()


@pytest.mark.parametrize("part", ["report", "follow"])
async def test_a_member_goes_on_renewing_whatever_its_replica_raises(directory: FakeDirectory, part: str) -> None:
    calls = 0

    def fail(*_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("not now")

    membership = Membership(MEMBER, **{part: fail})  # type: ignore[arg-type]
    await membership.join()
    await asyncio.sleep(0.4)

    # Without renewals no edge would send it requests any more, while Serve holds it to be healthy.
    assert calls >= 3
    assert directory.list_names().count("renew") >= 2
    await membership.leave()


async def succeed_later(directory: FakeDirectory, call: Callable[[], Awaitable[Any]]) -> Any:
    directory.error = ActorDiedError()
    task = asyncio.ensure_future(call())
    await asyncio.sleep(0.2)
    assert not task.done()
    directory.error = None
    return await asyncio.wait_for(task, 2)


async def test_joining_and_the_secret_wait_for_a_directory_that_is_away(directory: FakeDirectory) -> None:
    assert await succeed_later(directory, fetch_edge_secret) == "of the edge"
    membership = Membership(MEMBER)
    await succeed_later(directory, membership.join)

    assert "join" in directory.list_names()
    await membership.leave()


async def test_leaving_ends_in_time_whatever_the_directory_does(directory: FakeDirectory) -> None:
    membership = Membership(MEMBER)
    await membership.join()
    directory.delay_s = 60
    started_s = time.monotonic()
    await membership.leave()
    directory.error = ActorDiedError()
    await membership.leave()

    assert time.monotonic() - started_s < 1


async def test_each_renewal_brings_the_last_report(directory: FakeDirectory) -> None:
    reports = [ReplicaReport(float(count), count, {200: count}, ()) for count in range(1, 100)]
    membership = Membership(MEMBER, iter(reports).__next__)
    await membership.join()
    await asyncio.sleep(0.2)
    await membership.leave()
    renewals = [args for name, *args in directory.calls if name == "renew"]
    assert len(renewals) >= 2
    assert renewals == [[MEMBER, report] for report in reports[: len(renewals)]]
