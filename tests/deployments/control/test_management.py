"""Rollouts and the audit log by HTTP, for callers whose key allows it; over real sockets."""

from collections.abc import Iterator

import pytest

from deployments.access.audit.reader import AuditFilter, AuditReader
from deployments.rollout.canary import CanarySpec, CanaryState
from deployments.settings import ServingSettings
from deployments.state.canary_store import CanaryStore
from tests.deployments.control.conftest import Open
from tests.deployments.state.test_revisions import make_model

PATH = "/api/v1/deployments/flowers/rollout"
pytestmark = pytest.mark.anyio


@pytest.fixture
def canaries(serving_settings: ServingSettings) -> Iterator[CanaryStore]:
    store = CanaryStore.open(serving_settings)
    canary = store.begin(CanarySpec(deployment=make_model(2), stable_version=1))
    store.write_state(canary.id, CanaryState(phase="running"))
    yield store
    store.end(canary.id)


async def test_a_rollout_is_seen_and_ended_by_whom_the_key_allows(
    open_as: Open, canaries: CanaryStore, serving_settings: ServingSettings
) -> None:
    async with open_as("read:flowers") as http:
        shown = (await http.get(PATH)).json()
        assert (shown["spec"]["deployment"]["endpoint"]["version"], shown["state"]["phase"]) == (2, "running")
        for what in ("promote", "abort"):
            refused = await http.post(f"{PATH}/{what}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        assert (await http.get("/api/v1/deployments/images/rollout")).status_code == 403
    async with open_as("deploy:images") as http:
        assert (await http.get(PATH)).status_code == 403
        assert (await http.post(f"{PATH}/promote")).status_code == 403
        assert (await http.get("/api/v1/deployments/images/rollout")).status_code == 404
    assert canaries.list_active()[0].requested == ""
    async with open_as("deploy:flow*") as http:
        promoted = await http.post(f"{PATH}/promote")
        assert (promoted.status_code, promoted.json()["requested"]) == (202, "promote")
        assert (await http.post(f"{PATH}/pause")).status_code == 422
    assert canaries.list_active()[0].requested == "promote"
    last = AuditReader(serving_settings.platform).list_rows(AuditFilter(action="promote"), 1)[0].content
    assert (last["actor"], last["target"]) == ("acme/boss", "flowers")


async def test_what_has_ended_cannot_be_ended_again(open_as: Open, canaries: CanaryStore) -> None:
    (canary,) = canaries.list_active()
    canaries.write_state(canary.id, CanaryState(phase="aborted"))
    canaries.end(canary.id)

    async with open_as("deploy:*") as http:
        for what in ("promote", "abort"):
            response = await http.post(f"{PATH}/{what}")
            assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")
            assert "flowers:2, is aborted" in response.json()["error"]["message"]


async def test_the_audit_log_is_read_by_auditors_alone(open_as: Open, canaries: CanaryStore) -> None:
    async with open_as("keys,admin") as http:
        assert (await http.post("/api/v1/keys", json={"name": "watched"})).status_code == 201
    async with open_as("auditor", "acme/eve") as http:
        rows = (await http.get("/api/v1/audit?action=key.create")).json()["rows"]
        assert (rows[-1]["actor"], rows[-1]["outcome"]) == ("acme/boss", "succeeded")
        assert (await http.get("/api/v1/audit?since=2999-01-01T00:00:00")).json() == {"rows": []}
        assert (await http.get("/api/v1/audit?limit=0")).status_code == 422
        assert "since='0.5' is no time" in (await http.get("/api/v1/audit?since=0.5")).json()["error"]["message"]
    for allow in ("read:*,keys:*,usage:*,metrics", "predict:*,deploy:*,train:*"):
        async with open_as(allow) as http:
            assert (await http.get("/api/v1/audit")).status_code == 403
