"""Promotions: what stops one for now, for good, or is called off; and the versions that it needs. Ray is a stand-in."""

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout import canary as canary_module
from cluster.rollout.canary import finish, request
from cluster.rollout.deploy import reject_if_deployed
from cluster.rollout.serve_api import ClusterEnded, ServeUnreachable
from cluster.settings import Settings
from deployments.access.audit.event import Actor
from deployments.state.canary_store import CanaryStore
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
from tests.cluster.rollout.dashboard import Dashboard
from tests.cluster.rollout.test_canary import make_spec, run_begin, set_phase
from tests.cluster.rollout.test_deploy import (
    KILLED,
    get_served_version,
    list_outcomes,
    make_deployment,
    make_version,
    run_deploy,
)
from training.errors import ServiceError, StoreUnavailable, UserError
from training.registry.process_identity import ProcessIdentity


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in (secrets.RAY_TOKEN, secrets.ADMIN_KEY):
        secrets.ensure_secret(tmp_path, name)
    monkeypatch.setattr(canary_module, "WEIGHT_S", 0.0)
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> CanaryStore:
    return CanaryStore.open(settings)


def begin_promotion(settings: Settings, store: CanaryStore, origin: Origin) -> DeploymentStore:
    """As a process does that is killed then."""
    set_phase(store, "promoting")
    deployments = DeploymentStore.open(settings)
    deployments.begin_change({"m": make_deployment(2)}, "deploy", origin)
    return deployments


def test_an_abort_without_a_cluster_takes_back_a_promotion_that_had_begun(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    first = run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    deployments = begin_promotion(settings, store, KILLED)

    assert request(settings, None, "m", "abort", lambda status: None).state.phase == "aborted"

    # It is what the next cluster starts.
    assert deployments.list_records() == [first]
    assert list_outcomes(deployments)[0] == ("deploy", "interrupted")
    assert deployments.list_open_revisions() == []


@pytest.mark.parametrize("phase", ["promoted", "promoting"])
def test_what_has_been_promoted_is_not_aborted(
    settings: Settings, cluster: Cluster, store: CanaryStore, phase: str
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    set_phase(store, phase)
    deployments = DeploymentStore.open(settings)
    deployments.put_record(make_deployment(2))

    with pytest.raises(ServiceError, match="m:2 is promoted"):
        request(settings, None, "m", "abort", lambda status: None)

    assert store.list_active() == []
    assert deployments.list_records() == [make_deployment(2)]


@pytest.mark.parametrize(
    "error",
    [
        ServeUnreachable("Ray Serve does not answer"),
        ClusterEnded("the cluster has ended"),
        StoreUnavailable("the registry cannot be opened"),
        OperationalError("select", {}, OSError("no server")),
        httpx.ConnectError("refused"),
    ],
)
def test_what_tells_nothing_of_a_version_does_not_roll_it_back(
    settings: Settings, cluster: Cluster, store: CanaryStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    set_phase(store, "promoting")

    def fail(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as context:
        context.setattr(canary_module, "replace", fail)
        with pytest.raises(type(error)):
            finish(settings, cluster)
    (canary,) = store.list_active()
    assert canary.state.phase == "promoting"

    finish(settings, cluster)
    assert get_served_version() == 2


def test_a_dashboard_that_does_not_answer_leaves_no_revision(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    set_phase(store, "promoting")

    # Where nodes are added, they are not asked for first.
    with pytest.raises(httpx.ConnectError):
        finish(settings, dataclasses.replace(cluster, dashboard_port=1, autoscales=True))

    assert list_outcomes(DeploymentStore.open(settings)) == [("deploy", "succeeded")]


def test_a_promotion_that_cannot_be_done_now_can_be_called_off(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    first = run_deploy(settings, cluster, 1)
    canary = run_begin(settings, cluster, store)
    Dashboard.applications["m"]["status"] = "DEPLOYING"
    deployments = begin_promotion(settings, store, KILLED)
    store.request(canary.id, "abort", Actor("ann@machine"))

    finish(settings, cluster)

    last = store.get_last("m")
    assert last
    assert (last.state.phase, last.ended_s is None) == ("aborted", False)
    assert deployments.list_records() == [first]
    assert get_served_version() == 1


def test_a_promotion_names_its_process_so_that_others_find_it_abandoned(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    set_phase(store, "promoting")

    finish(settings, cluster)

    owner = DeploymentStore.open(settings).list_revisions("m")[0].owner
    assert ProcessIdentity.parse(owner) == ProcessIdentity.current()


def test_versions_of_a_rollout_are_not_deleted(settings: Settings, cluster: Cluster, store: CanaryStore) -> None:
    run_deploy(settings, cluster, 1)
    canary = store.begin(make_spec(2))

    for number in (1, 2):
        with pytest.raises(UserError, match="is in a rollout; `shoal rollout status m`"):
            reject_if_deployed(settings, make_version(number))
    reject_if_deployed(settings, make_version(3))
    store.end(canary.id)
    reject_if_deployed(settings, make_version(2))
    DeploymentStore.open(settings).begin_change({"m": make_deployment(2)}, "deploy", KILLED)
    for number in (1, 2):
        with pytest.raises(UserError, match="is deployed"):
            reject_if_deployed(settings, make_version(number))
