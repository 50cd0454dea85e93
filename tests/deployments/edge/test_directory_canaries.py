"""The directory and rollouts: routes and shares of canaries, where copies go, and the controller that it keeps."""

import asyncio
from pathlib import Path

import pytest

from deployments.edge import directory as directory_module
from deployments.edge.directory import Directory
from deployments.edge.state import Instructions, Member, Route, ShadowTarget, Split
from deployments.rollout import controller
from deployments.rollout.canary import CanarySpec
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.state.canary_store import CanaryStore
from tests.deployments.edge.local_directory import run_edges, wait_for_state
from tests.deployments.edge.test_directory import FIRST

pytestmark = pytest.mark.anyio


async def test_a_canary_has_a_route_and_a_weight_and_the_old_version_is_told_where_copies_go(
    directory: Directory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controllers: list[str] = []
    monkeypatch.setattr(controller, "start_controller", lambda: controllers.append("started"))
    monkeypatch.setattr(controller, "stop_controller", lambda: controllers.append("stopped"))
    monkeypatch.setattr(directory_module, "CONTROL_INTERVAL_S", 0.0)
    deployment = ModelDeployment(endpoint=ModelEndpoint(name="flowers", version=3, digest="d", uri="/b"))
    store = CanaryStore.open(ServingSettings(home=home))
    canary = store.begin(
        CanarySpec(deployment=deployment, stable_version=2, split_by="header:x-user", shadow_percent=20)
    )
    new = Member("new", Route("flowers.canary", 30.0), "127.0.0.1:3", version=3)
    async with run_edges(directory, 0.0) as (edge,):
        state = await wait_for_state(edge, lambda state: state.splits)
        assert state.splits == (Split("flowers", 3, 0, "header:x-user"),)
        assert Route.of(deployment.endpoint, "flowers.canary") in state.routes
        await directory.join(FIRST)
        await directory.join(new)
        assert await directory.renew(FIRST) == Instructions(splits=state.splits)

        store.write_state(canary.id, canary.state.model_copy(update={"phase": "running"}))
        state = await wait_for_state(edge, lambda state: state.splits[0].weight)
        assert state.splits[0].weight == 500
        shadow = ShadowTarget(("127.0.0.1:3",), 20)
        assert await directory.renew(FIRST) == Instructions(shadow, state.splits)
        assert await directory.renew(new) == Instructions(splits=state.splits)
        # Calls by handles go to a canary that can answer.
        await directory.leave(new.id)
        assert await directory.renew(FIRST) == Instructions(ShadowTarget((), 20))
        # Again and again, where it could not start.
        async with asyncio.timeout(5):
            while controllers.count("started") < 3:
                await asyncio.sleep(0.01)

        store.end(canary.id)
        await wait_for_state(edge, lambda state: not state.splits)
        assert await directory.renew(FIRST) == Instructions()
        async with asyncio.timeout(5):
            while controllers[-1] != "stopped":
                await asyncio.sleep(0.01)


async def test_a_controller_that_is_left_over_is_stopped_and_one_that_cannot_be_is_tried_again(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def stop() -> None:
        attempts.append("stop")
        if len(attempts) == 1:
            raise OSError("the GCS does not answer")

    monkeypatch.setattr(controller, "stop_controller", stop)

    async with asyncio.timeout(5):
        while len(attempts) < 2:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert len(attempts) == 2
