"""Deploy, roll back, and finish what a killed command began; Ray's dashboard is a stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.change import finish_changes, reconcile
from cluster.rollout.deploy import deploy, find_rollback_target, make_origin, rollback, undeploy
from cluster.rollout.serve_api import ServeApi
from cluster.settings import Settings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
from tests.cluster.rollout.dashboard import Dashboard
from training.errors import ServiceError, UserError
from training.registry.entities import Version
from training.registry.model_registry import Registry

KILLED = Origin("ann@machine", "", "machine 1 2")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in (secrets.RAY_TOKEN, secrets.ADMIN_KEY):
        secrets.ensure_secret(tmp_path, name)
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> DeploymentStore:
    return DeploymentStore.open(settings)


def make_version(number: int) -> Version:
    return Version(name="m", version=number, run_id="", digest="d", uri="/m", created_s=0, aliases=())


def make_deployment(number: int, scale: Scale | None = None, name: str = "m") -> ModelDeployment:
    return ModelDeployment(
        endpoint=ModelEndpoint(name=name, version=number, digest="d", uri="/m"), scale=scale or Scale()
    )


def run_deploy(settings: Settings, cluster: Cluster, number: int, **options: Any) -> ModelDeployment:
    return deploy(settings, cluster, make_version(number), lambda status: None, **options)


def list_outcomes(store: DeploymentStore, name: str = "m") -> list[tuple[str, str]]:
    return [(each.action, each.outcome) for each in store.list_revisions(name)]


def get_served_version(name: str = "m") -> int:
    version: int = Dashboard.applications[name]["config"]["args"]["endpoint"]["version"]
    return version


def test_a_scale_that_a_killed_deploy_wanted_and_that_never_ran_is_not_inherited(
    settings: Settings, cluster: Cluster, store: DeploymentStore
) -> None:
    store.put_record(make_deployment(1, Scale(max_replicas=2)))
    store.begin_change({"m": make_deployment(2, Scale(cpus=7, max_replicas=5))}, "deploy", KILLED)  # and no end

    deployed = run_deploy(settings, cluster, 3, scale={"target_ongoing_requests": 4})

    assert deployed.scale == Scale(max_replicas=2, target_ongoing_requests=4)
    assert store.list_records() == [deployed]
    assert list_outcomes(store) == [("deploy", "succeeded"), ("deploy", "superseded")]


def test_what_fits_no_node_is_refused_and_leaves_what_serves(
    settings: Settings, cluster: Cluster, store: DeploymentStore
) -> None:
    first = run_deploy(settings, cluster, 1)

    with pytest.raises(UserError, match=r"needs 100 CPU, and no node has so much \(8 CPU, 0 GPU\)"):
        run_deploy(settings, cluster, 2, scale={"cpus": 100})

    assert store.list_records() == [first]
    assert get_served_version() == 1
    # Nothing was asked of the cluster.
    assert list_outcomes(store) == [("deploy", "succeeded")]


def test_a_version_that_does_not_start_is_recorded_with_its_reason_and_leaves_the_one_before(
    settings: Settings, cluster: Cluster, store: DeploymentStore
) -> None:
    first = run_deploy(settings, cluster, 1, origin=make_origin("the first"))
    Dashboard.broken = {2}

    with pytest.raises(ServiceError, match="no memory"):
        run_deploy(settings, cluster, 2)

    failed, succeeded = store.list_revisions("m")
    assert (failed.outcome, failed.message) == ("failed", "m does not start: ValueError: no memory")
    assert (succeeded.outcome, succeeded.reason) == ("succeeded", "the first")
    assert "@" in succeeded.author
    assert (store.list_records(), get_served_version()) == ([first], 1)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Versions of `m` that the registry has; the bundles behind them are not what is tested."""
    numbers = {1, 2, 3}

    def get_version(self: Registry, name: str, number: int) -> Version:
        if number not in numbers:
            raise UserError(f"{name} has no version {number}")
        return make_version(number)

    monkeypatch.setattr(Registry, "get_version", get_version)
    monkeypatch.setattr(Registry, "load_manifest", lambda self, version: None)
    return numbers


def test_a_rollback_deploys_the_last_revision_that_succeeded_and_differs(
    settings: Settings, cluster: Cluster, store: DeploymentStore, registered: set[int]
) -> None:
    def roll_back(revision: int | None = None) -> int:
        record, target = rollback(settings, cluster, "m", lambda status: None, revision=revision)
        assert store.list_revisions("m")[0].restores == target.number
        assert store.list_records() == [record]
        return record.endpoint.version

    run_deploy(settings, cluster, 1, scale={"max_replicas": 3})
    run_deploy(settings, cluster, 2, scale={"max_replicas": 1}, dtype="bf16")
    Dashboard.broken = {3}
    with pytest.raises(ServiceError):
        run_deploy(settings, cluster, 3)

    assert roll_back() == 1
    assert store.list_records()[0].scale.max_replicas == 3
    # Once more goes back to what was rolled back.
    assert roll_back() == 2
    assert store.list_records()[0].endpoint.variant == "bf16"
    assert roll_back(1) == 1
    undeploy(settings, None, "m", lambda status: None)
    assert roll_back() == 1
    assert get_served_version() == 1
    assert [each.restores for each in store.list_revisions("m")] == [6, None, 1, 2, 1, None, None, None]


def test_a_rollback_that_cannot_be_is_refused(
    settings: Settings, cluster: Cluster, store: DeploymentStore, registered: set[int]
) -> None:
    def refuse(revision: int | None = None) -> str:
        with pytest.raises(UserError) as raised:
            rollback(settings, cluster, "m", lambda status: None, revision=revision)
        return str(raised.value)

    assert refuse() == "'m' was never deployed; `shoal status` lists what is"
    run_deploy(settings, cluster, 1)
    assert refuse().startswith("m has no earlier revision that succeeded and differs from what is deployed")
    assert refuse(7) == "m has no revision 7; `shoal history m` lists 1 to 1"
    undeploy(settings, None, "m", lambda status: None)
    assert refuse(2).startswith("revision 2 of m undeployed it")
    registered.clear()
    assert refuse() == (
        "revision 1 of m deployed version 1, which was deleted (m has no version 1); name another revision: "
        "`shoal history m` lists them, `shoal rollback m REVISION` deploys one"
    )
    assert find_rollback_target(store, "m", None).number == 1
    assert store.list_records() == []


def look(settings: Settings, cluster: Cluster) -> bool:
    with ServeApi(settings, cluster) as serve:
        return finish_changes(settings, serve)


# Killed before Serve was told, and after.
@pytest.mark.parametrize("is_declared", [False, True])
def test_what_a_killed_command_asked_for_is_finished(
    settings: Settings, cluster: Cluster, store: DeploymentStore, is_declared: bool
) -> None:
    first = run_deploy(settings, cluster, 1)
    change = store.begin_change({"m": make_deployment(2)}, "deploy", KILLED)
    if is_declared:
        with ServeApi(settings, cluster) as serve:
            serve.put_config(store.list_records())
        store.mark_declared(change)

    looks = 1
    while look(settings, cluster):
        looks += 1

    assert looks == (1 if is_declared else 2)
    assert list_outcomes(store)[0] == ("deploy", "succeeded")
    assert (store.list_records(), get_served_version()) == ([make_deployment(2)], 2)
    assert first != make_deployment(2)


@pytest.mark.parametrize("is_declared", [False, True])
def test_what_a_killed_command_asked_for_and_does_not_start_is_taken_back(
    settings: Settings, cluster: Cluster, store: DeploymentStore, is_declared: bool
) -> None:
    first = run_deploy(settings, cluster, 1)
    Dashboard.broken = {2}
    change = store.begin_change({"m": make_deployment(2)}, "deploy", KILLED)
    if is_declared:
        look(settings, cluster)
        assert store.list_open_revisions()[0].change == change

    while look(settings, cluster):
        pass

    assert store.list_revisions("m")[0].message == "m does not start: ValueError: no memory"
    assert (store.list_records(), get_served_version()) == ([first], 1)


def test_a_killed_undeploy_is_finished(settings: Settings, cluster: Cluster, store: DeploymentStore) -> None:
    run_deploy(settings, cluster, 1)
    store.begin_change({"m": None}, "undeploy", KILLED)

    while look(settings, cluster):
        pass

    assert list_outcomes(store)[0] == ("undeploy", "succeeded")
    assert "m" not in Dashboard.applications


def test_what_never_starts_is_taken_back_after_the_time_of_a_deployment(
    settings: Settings, cluster: Cluster, store: DeploymentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_deploy(settings, cluster, 1)
    store.begin_change({"m": make_deployment(2)}, "deploy", KILLED)
    assert look(settings, cluster)
    Dashboard.applications["m"]["status"] = "DEPLOYING"
    assert look(settings, cluster)

    assert not look(settings.model_copy(update={"deploy_timeout_s": 1e-9}), cluster)

    assert store.list_revisions("m")[0].message == "not done within 1e-09 s"
    assert store.list_records() == [first]


def test_what_the_cluster_itself_drives_is_left_to_it(
    settings: Settings, cluster: Cluster, store: DeploymentStore
) -> None:
    run_deploy(settings, cluster, 1)
    store.begin_change({"m": make_deployment(2)}, "deploy", Origin("canary"))

    assert not look(settings, cluster)
    assert list_outcomes(store)[0] == ("deploy", "in_progress")


def test_the_next_start_finishes_what_was_killed_and_takes_back_what_does_not_start(
    settings: Settings, cluster: Cluster, store: DeploymentStore
) -> None:
    for name in ("m", "n"):
        store.put_record(make_deployment(1, name=name))
        store.begin_change({name: make_deployment(2 if name == "m" else 9, name=name)}, "deploy", KILLED)
    store.begin_change({"new": make_deployment(9, name="new")}, "deploy", KILLED)
    Dashboard.broken = {9}

    failures = reconcile(settings, cluster, lambda status: None)

    assert [(each.name, each.endpoint.version) for each in store.list_records()] == [("m", 2), ("n", 1)]
    assert (get_served_version("m"), get_served_version("n")) == (2, 1)
    assert "new" not in Dashboard.applications
    assert sorted(failures) == ["n", "new"]
    assert "n does not start: ValueError: no memory" in failures["n"]
    assert failures["n"].endswith("what ran before is restored")
    assert [list_outcomes(store, name)[0][1] for name in ("m", "n", "new")] == ["succeeded", "failed", "failed"]
    assert store.list_open_revisions() == []


def test_the_cluster_starts_a_process_that_finishes_what_was_killed(
    settings: Settings, cluster: Cluster, store: DeploymentStore
) -> None:
    from dataclasses import replace

    from cluster.local.running_cluster import shared_settings, write_record
    from training.registry.process_identity import ProcessIdentity

    head = str(ProcessIdentity.current())
    write_record(settings.home, replace(cluster, head=head, shared_settings=shared_settings(settings)))
    store.put_record(make_deployment(1))
    store.begin_change({"m": make_deployment(2)}, "deploy", KILLED)

    done = subprocess.run(
        [sys.executable, "-m", "cluster.rollout.change"],
        env=os.environ | settings.as_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    assert json.dumps(list_outcomes(store)) == '[["deploy", "succeeded"]]'
    assert get_served_version() == 2
