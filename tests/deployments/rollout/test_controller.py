"""The controller's loop: what it writes together, and what it goes on after; directory and Serve are stand-ins."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.access.audit.event import Actor
from deployments.rollout import controller as controller_module
from deployments.rollout.canary import Canary
from deployments.rollout.controller import Controller
from deployments.settings import ServingSettings
from deployments.state.canary_store import CanaryStore
from tests.deployments.rollout.test_progress import Replica, Rollout

pytestmark = pytest.mark.anyio


class Directory:
    """Reports what two replicas have answered; each look finds some more."""

    def __init__(self) -> None:
        self.replicas = [Replica("m"), Replica("m.canary")]
        self.list_reports = SimpleNamespace(remote=self._list_reports)

    async def _list_reports(self) -> list[Any]:
        for replica in self.replicas:
            replica.answer(200)
        return [each.report() for each in self.replicas]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CanaryStore:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path))
    monkeypatch.setattr(controller_module, "LOOK_INTERVAL_S", 0.01)
    directory = Directory()
    monkeypatch.setattr(controller_module, "get_directory", lambda: directory)
    monkeypatch.setattr(controller_module, "_find_failure", lambda canary: "")
    return CanaryStore.open(ServingSettings(home=tmp_path))


@contextlib.asynccontextmanager
async def run_controller() -> AsyncIterator[Controller]:
    controller = Controller()
    try:
        yield controller
    finally:
        controller._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await controller._task


async def wait_for_step(store: CanaryStore, step: int) -> Canary:
    async with asyncio.timeout(20):
        while (canary := store.get_last("m")) is None or canary.state.step < step:
            await asyncio.sleep(0.01)
    return canary


async def test_a_step_is_written_with_its_evidence(store: CanaryStore) -> None:
    canary = store.begin(Rollout(min_step_s=0).canary.spec)
    async with run_controller():
        await wait_for_step(store, 1)
        comparison = store.read_comparison(canary.id)

    assert comparison is not None
    assert comparison["arrays"][0] == 1


async def test_a_controller_that_cannot_write_begins_again_with_what_is_written(
    store: CanaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin(Rollout(min_step_s=0).canary.spec)
    write, failures = CanaryStore.write_progress, []
    steps: list[tuple[int, int]] = []

    def fail_once(self: CanaryStore, canary_id: int, state: Any, comparison: dict[str, Any]) -> None:
        if state.step == 1 and not failures:
            failures.append(comparison)
            raise OSError("the database does not answer")
        if state.phase == "running":
            steps.append((state.step, comparison["arrays"][0]))
        write(self, canary_id, state, comparison)

    monkeypatch.setattr(CanaryStore, "write_progress", fail_once)
    async with run_controller():
        canary = await wait_for_step(store, 1)

    assert failures
    assert steps
    assert all(written == compared for written, compared in steps)
    assert len(canary.state.history) == 1
    assert canary.state.history[0].evidence[0].canary.total >= 200


async def test_a_controller_starts_while_the_database_is_away(
    store: CanaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin(Rollout(min_step_s=0).canary.spec)
    attempts = []

    def open_store(settings: ServingSettings) -> CanaryStore:
        attempts.append(settings)
        if len(attempts) < 3:
            raise OSError("the database does not answer")
        return store

    monkeypatch.setattr(CanaryStore, "open", open_store)
    async with run_controller():
        await wait_for_step(store, 1)

    assert len(attempts) == 3


async def test_what_is_being_brought_about_is_not_written_over(
    store: CanaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = store.begin(Rollout().canary.spec)
    store.write_state(canary.id, canary.state.model_copy(update={"phase": "promoting"}))
    written: list[Any] = []
    monkeypatch.setattr(controller_module, "EVIDENCE_INTERVAL_S", 0.0)
    monkeypatch.setattr(Controller, "_finish", lambda self: written.append("finish"))
    for name in ("write_state", "write_progress"):
        monkeypatch.setattr(CanaryStore, name, lambda self, *values: written.append(values))
    async with run_controller(), asyncio.timeout(5):
        while written.count("finish") < 3:
            await asyncio.sleep(0.01)

    assert set(written) == {"finish"}


async def test_a_rollout_that_cannot_be_followed_keeps_no_other_one_from_its_end(
    store: CanaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Rollout().canary.spec
    broken = store.begin(spec)
    endpoint = spec.deployment.endpoint.model_copy(update={"name": "other"})
    other = store.begin(
        spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"endpoint": endpoint})})
    )
    store.request(other.id, "abort", Actor("ann@machine"))
    read = CanaryStore.read_comparison

    def read_other(self: CanaryStore, canary_id: int) -> Any:
        if canary_id == broken.id:
            raise ValueError("not readable")
        return read(self, canary_id)

    finished = asyncio.Event()
    monkeypatch.setattr(CanaryStore, "read_comparison", read_other)
    monkeypatch.setattr(Controller, "_finish", lambda self: finished.set())
    async with run_controller():
        await asyncio.wait_for(finished.wait(), 5)

    after = store.get(other.id)
    assert after is not None
    assert after.state.phase == "aborted"


async def test_a_rollout_whose_evidence_cannot_be_read_can_still_be_aborted(store: CanaryStore) -> None:
    canary = store.begin(Rollout().canary.spec)
    store.write_progress(canary.id, canary.state, {"metrics": {"a metric of another release": []}, "arrays": []})
    store.request(canary.id, "abort", Actor("ann@machine"))
    async with run_controller(), asyncio.timeout(5):
        while (found := store.get(canary.id)) is None or found.state.phase != "aborted":
            await asyncio.sleep(0.01)

    assert found.state.reason == "by request"
