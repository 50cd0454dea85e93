"""The cluster has a change finished whose command was killed, and no other."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.control import abandoned
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
from training.registry.process_identity import ProcessIdentity

pytestmark = pytest.mark.anyio
MODEL = ModelDeployment(endpoint=ModelEndpoint(name="m", version=1, digest="d", uri="/m"))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(abandoned, "RETRY_INTERVAL_S", 0.01)


async def run_for(store: DeploymentStore, command: tuple[str, ...], seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await abandoned.finish_abandoned_changes(store, command)


async def test_a_change_is_finished_once_its_command_has_ended(tmp_path: Path) -> None:
    store, marker = DeploymentStore.open(ServingSettings(home=tmp_path)), tmp_path / "finished"
    finish = f"""
from pathlib import Path
from deployments.settings import ServingSettings
from deployments.state.store import DeploymentStore
store = DeploymentStore.open(ServingSettings(home=Path({str(tmp_path)!r})))
with open({str(marker)!r}, "a") as file: file.write("x")
store.end_change(store.list_open_revisions()[0].change, "succeeded")
"""
    command = (sys.executable, "-c", finish)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = str(ProcessIdentity.of(process.pid))
        store.begin_change({"m": MODEL}, "deploy", Origin("ann@machine", owner=owner))
        await run_for(store, command, 0.2)
        assert not marker.exists()
        process.kill()
    watch = asyncio.ensure_future(abandoned.finish_abandoned_changes(store, command))
    while store.list_open_revisions():
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    watch.cancel()

    assert marker.read_text() == "x"
    # What the cluster itself drives has no process.
    store.begin_change({"m": MODEL}, "deploy", Origin("canary"))
    await run_for(store, command, 0.2)
    assert marker.read_text() == "x"


async def test_a_process_that_fails_is_tried_again_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DeploymentStore.open(ServingSettings(home=tmp_path))
    # As a database has it that was made before the owner was kept.
    store.begin_change({"m": MODEL}, "deploy", Origin("unknown", owner="unknown"))

    await run_for(store, ("/bin/sh", "-c", "echo lines; echo no memory >&2; exit 3"), 0.5)

    assert len(caplog.records) > 1
    assert {each.getMessage() for each in caplog.records} == {
        "a change whose command was killed is not finished: no memory"
    }
