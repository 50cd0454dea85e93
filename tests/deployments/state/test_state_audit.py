"""Every revision and every phase of a rollout has its rows in the audit log, written with it or not at all."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from deployments.access.audit.event import Actor
from deployments.access.audit.log import AuditUnavailable
from deployments.access.audit.reader import AuditFilter, AuditReader
from deployments.rollout.canary import CanarySpec
from deployments.settings import ServingSettings
from deployments.state.canary_store import CanaryStore
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
from tests.deployments.state.test_revisions import make_model
from tests.deployments.state.test_store import PIPELINE

ANN = Origin("ann@machine", "the new data", "machine 1 2", "uid 1000")


@pytest.fixture
def settings(tmp_path: Path) -> ServingSettings:
    return ServingSettings(home=tmp_path)


@pytest.fixture
def store(settings: ServingSettings) -> DeploymentStore:
    return DeploymentStore.open(settings)


@pytest.fixture
def canaries(settings: ServingSettings) -> CanaryStore:
    return CanaryStore.open(settings)


def list_rows(settings: ServingSettings) -> list[dict[str, Any]]:
    return [row.content for row in AuditReader(settings.platform).list_rows(AuditFilter(), 100)]


def summarize(settings: ServingSettings) -> list[tuple[str, str, str, str]]:
    return [(row["actor"], row["action"], row["target"], row["outcome"]) for row in list_rows(settings)]


def test_a_change_has_a_row_for_each_name_that_it_changes(settings: ServingSettings, store: DeploymentStore) -> None:
    store.end_change(store.begin_change({"flowers": make_model(1)}, "deploy", ANN), "succeeded")
    change = store.begin_change({"a-pipeline": PIPELINE, "flowers": make_model(2)}, "deploy", ANN)
    store.end_change(change, "failed", "no memory", restore=True)
    store.end_change(change, "failed", "no memory", restore=True)

    ann = "ann@machine"
    assert summarize(settings) == [
        (ann, "deploy", "flowers", "started"),
        (ann, "deploy", "flowers", "succeeded"),
        (ann, "refresh", "a-pipeline", "started"),
        (ann, "deploy", "flowers", "started"),
        (ann, "refresh", "a-pipeline", "failed"),
        (ann, "deploy", "flowers", "failed"),
    ]
    rows = list_rows(settings)
    first, last = rows[0], rows[-1]
    assert (first["source"], first["before"], first["message"]) == ("uid 1000", None, "the new data")
    assert first["after"]["spec"]["endpoint"]["version"] == 1
    assert (last["before"], last["after"]["spec"]["endpoint"]["version"]) == (first["after"], 2)
    assert (last["operation"], last["message"]) == ("flowers/2", "no memory")
    assert "signatures" not in json.dumps(rows)


def test_what_was_killed_is_superseded_or_finished_by_another_actor(
    settings: ServingSettings, store: DeploymentStore
) -> None:
    store.begin_change({"flowers": make_model(1)}, "deploy", ANN)
    change = store.begin_change({"flowers": make_model(2)}, "deploy", Origin("bob@machine"))
    store.end_change(change, "succeeded", "its command was killed", actor=Actor("cluster"))

    assert summarize(settings) == [
        ("ann@machine", "deploy", "flowers", "started"),
        ("ann@machine", "deploy", "flowers", "superseded"),
        ("bob@machine", "deploy", "flowers", "started"),
        ("cluster", "deploy", "flowers", "succeeded"),
    ]


def test_a_change_that_an_earlier_shoal_began_is_recorded_as_it_ends(
    settings: ServingSettings, store: DeploymentStore
) -> None:
    change = store.begin_change({"flowers": make_model(1)}, "deploy", ANN)
    with sqlite3.connect(settings.home / "platform.db") as database:
        database.execute("UPDATE revisions SET number = 7")
    database.close()

    store.end_change(change, "interrupted", "killed")

    row = list_rows(settings)[-1]
    assert (row["actor"], row["outcome"], row["operation"]) == ("ann@machine", "interrupted", "flowers/7")
    assert row["after"]["spec"]["endpoint"]["version"] == 1


def test_nothing_is_deployed_where_its_row_cannot_be_written(settings: ServingSettings, store: DeploymentStore) -> None:
    with sqlite3.connect(settings.home / "platform.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    database.close()

    with pytest.raises(AuditUnavailable, match="disk full; nothing may be changed"):
        store.begin_change({"flowers": make_model(1)}, "deploy", ANN)

    assert store.list_records() == []
    assert store.list_revisions("flowers") == []


def test_a_store_without_a_log_reads_and_changes_nothing(settings: ServingSettings) -> None:
    store, canaries = DeploymentStore(settings.platform), CanaryStore(settings.platform)

    with pytest.raises(RuntimeError, match="changes are recorded"):
        store.begin_change({"flowers": make_model(1)}, "deploy", ANN)
    with pytest.raises(RuntimeError, match="changes are recorded"):
        canaries.begin(make_spec())
    assert (store.list_records(), canaries.list_active()) == ([], [])


def make_spec() -> CanarySpec:
    return CanarySpec(deployment=make_model(2), stable_version=1, author="ann@machine", reason="try it")


def set_phase(canaries: CanaryStore, phase: str, reason: str = "") -> None:
    canary = canaries.get_last("flowers")
    assert canary
    state = canary.state.model_copy(update={"phase": phase, "reason": reason})
    canaries.write_state(canary.id, state)
    canaries.write_progress(canary.id, state, {})


def test_a_rollout_that_the_evidence_promotes_is_the_controllers(
    settings: ServingSettings, canaries: CanaryStore
) -> None:
    canary = canaries.begin(make_spec(), "uid 1000")
    for phase in ("running", "promoting", "promoted"):
        set_phase(canaries, phase, "no worse")
    canaries.end(canary.id)

    assert summarize(settings) == [
        ("ann@machine", "canary", "flowers", "started"),
        ("rollout controller", "promote", "flowers", "started"),
        ("rollout controller", "promote", "flowers", "succeeded"),
        ("rollout controller", "canary", "flowers", "succeeded"),
    ]
    rows = list_rows(settings)
    assert (rows[0]["source"], rows[0]["message"]) == ("uid 1000", "try it")
    assert (rows[0]["before"], rows[0]["after"]["version"]) == ({"version": 1}, 2)
    assert rows[0]["after"]["steps"] == ["5.0", "25.0", "50.0", "100.0"]
    assert (rows[2]["before"], rows[2]["after"], rows[2]["message"]) == ({"version": 1}, {"version": 2}, "no worse")


@pytest.mark.parametrize(
    ("requested", "phases", "rows"),
    [
        (
            "",
            ["running", "rolled_back"],
            [("rollout controller", "rollback", "succeeded"), ("rollout controller", "canary", "failed")],
        ),
        (
            "promote",
            ["promoting", "rolled_back"],
            [
                ("bob", "promote", "started"),
                ("bob", "promote", "failed"),
                ("rollout controller", "rollback", "succeeded"),
                ("rollout controller", "canary", "failed"),
            ],
        ),
        (
            "abort",
            ["aborted"],
            [
                ("bob", "abort", "started"),
                ("bob", "abort", "succeeded"),
                ("rollout controller", "canary", "interrupted"),
            ],
        ),
        (
            "abort",
            ["promoted"],
            [("bob", "abort", "started"), ("bob", "abort", "failed"), ("rollout controller", "canary", "succeeded")],
        ),
    ],
)
def test_a_rollout_ends_as_somebody_or_the_evidence_decides(
    settings: ServingSettings,
    canaries: CanaryStore,
    requested: Any,
    phases: list[str],
    rows: list[tuple[str, str, str]],
) -> None:
    canary = canaries.begin(make_spec())
    if requested:
        canaries.request(canary.id, requested, Actor("bob", "10.0.0.1"))
    for phase in phases:
        set_phase(canaries, phase)
    canaries.end(canary.id)

    assert [(actor, action, outcome) for actor, action, _, outcome in summarize(settings)][1:] == rows
