"""Rollouts beside the deployed version: what begins, what is refused, what is brought about; Ray is a stand-in."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.rollout import build_plan, describe_rollout
from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout import canary as canary_module
from cluster.rollout.canary import begin, choose_split, find_stable, finish, request
from cluster.rollout.deploy import deploy, reject_pipeline, rollback, undeploy
from cluster.settings import Settings
from deployments.rollout.canary import Canary, CanarySpec
from deployments.specs.model_deployment import ModelDeployment, Scale
from deployments.state.canary_store import CanaryStore
from deployments.state.store import DeploymentStore
from tests.cluster.rollout.dashboard import Dashboard
from tests.cluster.rollout.test_deploy import (
    get_served_version,
    list_outcomes,
    make_deployment,
    make_version,
    run_deploy,
)
from tests.deployments.callers import add_key
from tests.deployments.state.test_store import PIPELINE
from training.errors import ServiceError, UserError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in (secrets.RAY_TOKEN, secrets.ADMIN_KEY):
        secrets.ensure_secret(tmp_path, name)
    monkeypatch.setattr(canary_module, "WEIGHT_S", 0.0)
    monkeypatch.setattr(canary_module, "POLL_INTERVAL_S", 0.02)
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> CanaryStore:
    return CanaryStore.open(settings)


def make_spec(number: int = 2, **fields: Any) -> CanarySpec:
    return CanarySpec(deployment=make_deployment(number), stable_version=1, **fields)


def set_phase(store: CanaryStore, phase: str, reason: str = "so it is") -> None:
    canary = store.get_last("m")
    assert canary
    store.write_state(canary.id, canary.state.model_copy(update={"phase": phase, "reason": reason}))


def act_as_controller(store: CanaryStore, phase: str, then: Callable[[], None] = lambda: None) -> threading.Thread:
    """Write a phase once Serve has been told of the canary."""

    def act() -> None:
        deadline = time.monotonic() + 20
        while "m.canary" not in Dashboard.applications and time.monotonic() < deadline:
            time.sleep(0.01)
        set_phase(store, phase)
        then()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def run_begin(settings: Settings, cluster: Cluster, store: CanaryStore, phase: str = "running") -> Canary:
    thread = act_as_controller(store, phase)
    try:
        return begin(settings, cluster, make_spec(), lambda status: None)
    finally:
        thread.join()


def test_a_canary_runs_beside_what_serves_and_other_deployments_leave_it(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)

    canary = run_begin(settings, cluster, store)

    arguments = Dashboard.applications["m.canary"]["config"]["args"]
    assert (arguments["application"], arguments["endpoint"]["name"]) == ("m.canary", "m")
    assert get_served_version() == 1
    assert get_served_version("m.canary") == 2
    assert canary.percent == 5
    version = make_version(1)
    deploy(settings, cluster, type(version)(**version.__dict__ | {"name": "other"}), lambda status: None)
    assert get_served_version("m.canary") == 2


def test_nothing_else_changes_a_model_while_a_canary_of_it_goes_on(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    ignore: Callable[[str], None] = lambda status: None  # noqa: E731

    for change in (
        lambda: run_deploy(settings, cluster, 3),
        lambda: rollback(settings, cluster, "m", ignore),
        lambda: undeploy(settings, cluster, "m", ignore),
        lambda: begin(settings, cluster, make_spec(3), ignore),
    ):
        with pytest.raises(UserError, match="m:2 is being rolled out beside version 1; `shoal rollout promote m`"):
            change()
    assert get_served_version() == 1


def test_a_canary_that_does_not_start_leaves_what_serves(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)

    with pytest.raises(ServiceError, match="m: so it is; version 1 goes on serving"):
        run_begin(settings, cluster, store, "rolled_back")

    finish(settings, cluster)
    assert "m.canary" not in Dashboard.applications
    assert store.list_active() == []
    assert run_deploy(settings, cluster, 3).endpoint.version == 3


def test_a_promoted_version_takes_its_models_place_with_a_revision_that_says_why(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)
    canary = run_begin(settings, cluster, store)
    set_phase(store, "promoting", "errors: 0 of 500 requests failed")

    finish(settings, cluster)

    revision = DeploymentStore.open(settings).list_revisions("m")[0]
    assert get_served_version() == 2
    assert "m.canary" not in Dashboard.applications
    assert revision.reason == "canary of version 2: errors: 0 of 500 requests failed"
    ended = store.get(canary.id)
    assert ended
    assert (ended.state.phase, ended.ended_s is None, ended.percent) == ("promoted", False, 0)


def test_a_version_that_cannot_be_deployed_at_last_is_rolled_back(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)
    set_phase(store, "promoting")
    Dashboard.broken = {2}

    finish(settings, cluster)

    canary = store.get_last("m")
    assert canary
    assert canary.state.phase == "rolled_back"
    assert "it cannot be deployed: " in canary.state.reason
    assert get_served_version() == 1
    assert list_outcomes(DeploymentStore.open(settings))[0] == ("deploy", "failed")


def test_what_a_person_asks_for_is_waited_for(settings: Settings, cluster: Cluster, store: CanaryStore) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)

    def act() -> None:
        while not (canary := store.get_last("m")) or canary.requested != "abort":
            time.sleep(0.01)
        set_phase(store, "aborted")
        finish(settings, cluster)

    thread = threading.Thread(target=act)
    thread.start()
    canary = request(settings, cluster, "m", "abort", lambda status: None)
    thread.join()

    assert canary.state.phase == "aborted"
    with pytest.raises(UserError, match="no rollout of m goes on; the last one is aborted"):
        request(settings, cluster, "m", "promote", lambda status: None)


def test_without_a_cluster_a_rollout_can_be_aborted_and_not_promoted(
    settings: Settings, cluster: Cluster, store: CanaryStore
) -> None:
    run_deploy(settings, cluster, 1)
    run_begin(settings, cluster, store)

    with pytest.raises(UserError, match="no cluster runs"):
        request(settings, None, "m", "promote", lambda status: None)
    assert request(settings, None, "m", "abort", lambda status: None).state.phase == "aborted"
    assert store.list_active() == []


@pytest.mark.parametrize(
    ("deployed", "problem"), [(None, "'m' is not deployed; a first version"), (2, "m:2 is what serves")]
)
def test_a_canary_needs_another_version_to_be_compared_with(
    settings: Settings, deployed: int | None, problem: str
) -> None:
    if deployed:
        DeploymentStore.open(settings).put_record(make_deployment(deployed, Scale(max_replicas=2)))

    with pytest.raises(UserError, match=problem):
        find_stable(settings, make_deployment(2))


def test_requests_are_split_where_callers_are_few(settings: Settings) -> None:
    secrets.ensure_secret(settings.home, secrets.KEY_PEPPER)
    for number in range(19):
        add_key(settings, f"caller-{number}")
    assert choose_split(settings) == "request"
    add_key(settings, "caller-19")
    assert choose_split(settings) == "caller"


@pytest.mark.parametrize(
    ("canary", "steps", "expected"),
    [
        ("5%", None, [5, 25, 50, 100]),
        ("30", None, [30, 50, 100]),
        ("0.5%", None, [0.5, 25, 50, 100]),
        (None, "10,100", [10, 100]),
        ("10%", "10%, 100%", [10, 100]),
    ],
)
def test_steps_follow_the_first_share(canary: str | None, steps: str | None, expected: list[float]) -> None:
    assert build_plan(canary, steps, None, "", None, None)["steps"] == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"canary": "5", "steps": "10,100"}, "--canary 5% is not the first of --steps 10%"),
        ({"canary": "five"}, "--canary: 'five' is no percentage; write 5% or 5"),
        ({"canary": "0"}, "'0' is not above 0% and up to 100%"),
        ({"shadow": "101%"}, "'101%' is not above 0% and up to 100%"),
        ({"canary": "100%"}, "--canary 100% compares nothing; leave it out to deploy the version"),
        ({"canary": "20", "steps": "50,20"}, "--steps 50,20: each must be more than the one before"),
        ({"split": "caller"}, "give --canary 5% or --shadow 10% too"),
        ({"canary": "5", "min_agreement": 0.9}, "give --shadow 10% too"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_remedy(options: dict[str, Any], problem: str) -> None:
    given = dict.fromkeys(("canary", "steps", "shadow", "min_step", "min_agreement")) | {"split": ""} | options
    with pytest.raises(UserError, match=problem):
        build_plan(**given)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"steps": (5, 4, 100)}, "must rise from between 0 and 100 to 100"),
        ({"steps": (5, 50)}, "must rise"),
        ({"steps": (100,)}, "must rise"),
        ({"steps": (0.004, 100)}, r"0.004% and 100% are 0 and 10000 of 10,000 parts .* differ by 0.01 at least"),
        ({"steps": (99.999, 100)}, "99.999% and 100% are 10000 and 10000"),
        ({"steps": (5, 5.001, 100)}, "5% and 5.001% are 500 and 500"),
        ({"steps": ()}, "a rollout needs requests"),
        ({"split_by": "header:X-User"}, "a name of a-z, 0-9"),
        *(({"split_by": f"header:x{mark}y"}, "it is caller, request, or header:NAME") for mark in "'\"#\\$%,)( \n"),
        ({"split_by": "header:x-shoal-caller"}, "it is caller, request"),
        ({"split_by": "header:a b"}, "it is caller, request"),
        ({"split_by": "cookie"}, "it is caller, request"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make_spec(**fields)


def test_a_line_says_what_a_rollout_is_at(store: CanaryStore) -> None:
    store.begin(make_spec(split_by="header:x-user", shadow_percent=10))
    set_phase(store, "running", "needs more")
    canary = store.get_last("m")
    assert canary
    line = "m:2 beside version 1: running, step 1 of 4 (5% by header:x-user), copies of 10%, undecided: needs more"
    assert describe_rollout(canary) == line


def test_a_canary_is_the_deployment_that_would_serve(settings: Settings, cluster: Cluster, store: CanaryStore) -> None:
    deployed: ModelDeployment = run_deploy(settings, cluster, 1, scale={"max_replicas": 3})
    run_begin(settings, cluster, store)
    configs = [Dashboard.applications[name]["config"]["deployments"][0] for name in ("m", "m.canary")]

    assert deployed.scale.max_replicas == configs[0]["autoscaling_config"]["max_replicas"] == 3
    assert configs[0].keys() == configs[1].keys()


def test_a_pipeline_has_no_canary_and_its_name_no_version(settings: Settings) -> None:
    DeploymentStore.open(settings).put_record(PIPELINE)
    name = PIPELINE.name
    for reference in (name, f"{name}:2", f"{name}@champion"):
        with pytest.raises(UserError, match=f"'{name}' is a pipeline, which `shoal apply FILE` deploys"):
            reject_pipeline(settings, reference)
    with pytest.raises(UserError, match=f"'{name}' is a pipeline"):
        canary_module.find_canary(settings, name)
    reject_pipeline(settings, "flowers")
