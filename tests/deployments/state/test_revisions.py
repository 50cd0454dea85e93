"""Every change of a deployment is a revision: what was asked for, by whom, why, and what came of it."""

import sqlite3
from pathlib import Path

import pytest

from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale
from deployments.state.revisions import Origin, Revision
from deployments.state.store import DeploymentStore
from tests.deployments.state.test_store import PIPELINE
from training.errors import UserError

ORIGIN = Origin("ann@machine", "the new data", "machine 1 2")


def make_model(version: int, scale: Scale | None = None) -> ModelDeployment:
    return ModelDeployment(
        endpoint=ModelEndpoint(name="flowers", version=version, digest="d", uri="/b"), scale=scale or Scale()
    )


@pytest.fixture
def store(tmp_path: Path) -> DeploymentStore:
    return DeploymentStore.open(ServingSettings(home=tmp_path))


def summarize(revisions: list[Revision]) -> list[tuple[int, str, str]]:
    return [(each.number, each.action, each.outcome) for each in revisions]


def test_what_shall_run_is_written_with_its_revision_before_it_runs(store: DeploymentStore) -> None:
    change = store.begin_change({"flowers": make_model(1)}, "deploy", ORIGIN)

    (revision,) = store.list_open_revisions()
    assert store.list_records() == [make_model(1)]
    assert store.get_settled_record("flowers") is None
    assert (revision.number, revision.change) == (1, change)
    assert (revision.author, revision.reason) == ("ann@machine", "the new data")
    assert (revision.declared_s, revision.ended_s, revision.parse_spec()) == (None, None, make_model(1))

    store.mark_declared(change)
    assert store.list_open_revisions()[0].declared_s is not None
    assert store.end_change(change, "succeeded") == ["flowers"]

    assert store.list_open_revisions() == []
    assert store.get_settled_record("flowers") == make_model(1)
    assert store.list_revisions("flowers")[0].ended_s is not None


def test_what_failed_leaves_what_ran_before_and_the_reason(store: DeploymentStore) -> None:
    store.end_change(store.begin_change({"flowers": make_model(1)}, "deploy", ORIGIN), "succeeded")

    change = store.begin_change({"a-pipeline": PIPELINE, "flowers": make_model(2)}, "deploy", ORIGIN)
    assert store.end_change(change, "failed", "no memory", restore=True) == ["a-pipeline", "flowers"]

    assert store.list_records() == [make_model(1)]
    assert summarize(store.list_revisions("flowers")) == [(2, "deploy", "failed"), (1, "deploy", "succeeded")]
    assert summarize(store.list_revisions("a-pipeline")) == [(1, "refresh", "failed")]
    assert store.list_revisions("flowers")[0].message == "no memory"
    assert store.get_current_revisions()["flowers"].number == 1
    # It has ended: nothing changes any more.
    assert store.end_change(change, "succeeded", restore=True) == []


def test_a_change_that_begins_before_another_has_ended_supersedes_it_and_keeps_what_ran_before_both(
    store: DeploymentStore,
) -> None:
    store.end_change(store.begin_change({"flowers": make_model(1)}, "deploy", ORIGIN), "succeeded")
    killed = store.begin_change({"flowers": make_model(2)}, "deploy", ORIGIN)
    assert store.get_settled_record("flowers") == make_model(1)

    change = store.begin_change({"flowers": make_model(3)}, "deploy", ORIGIN)

    assert [each.outcome for each in store.list_revisions("flowers")] == ["in_progress", "superseded", "succeeded"]
    assert store.end_change(killed, "succeeded", restore=True) == []
    assert store.list_records() == [make_model(3)]
    store.end_change(change, "failed", "", restore=True)
    assert store.list_records() == [make_model(1)]


def test_a_change_of_the_scale_alone_is_called_so(store: DeploymentStore) -> None:
    for record in (make_model(1), make_model(1, Scale(max_replicas=3)), make_model(1, Scale(max_replicas=3))):
        store.end_change(store.begin_change({"flowers": record}, "deploy", ORIGIN), "succeeded")
    store.end_change(store.begin_change({"flowers": None}, "undeploy", ORIGIN), "succeeded")

    assert [each.action for each in store.list_revisions("flowers")] == ["undeploy", "deploy", "scale", "deploy"]
    assert store.list_records() == []
    assert store.list_revisions("flowers")[0].parse_spec() is None
    assert store.get_current_revisions()["flowers"].number == 4


def test_a_specification_of_another_version_of_shoal_is_refused_by_its_revision(store: DeploymentStore) -> None:
    store.begin_change({"flowers": make_model(1)}, "deploy", ORIGIN)
    (revision,) = store.list_revisions("flowers")

    with pytest.raises(UserError, match=r"revision 1 of flowers was deployed by another version of Shoal"):
        Revision(**vars(revision) | {"spec": '{"model": "flowers"}'}).parse_spec()


OLD_SCHEMA = """
CREATE TABLE deployments (name VARCHAR(63) NOT NULL, spec TEXT NOT NULL, updated_s FLOAT NOT NULL, PRIMARY KEY (name));
CREATE TABLE rollouts (id INTEGER NOT NULL, revision INTEGER NOT NULL, name VARCHAR(63) NOT NULL, previous_spec TEXT,
    spec TEXT, started_s FLOAT NOT NULL, outcome VARCHAR(20) NOT NULL, PRIMARY KEY (id));
CREATE TABLE api_keys (digest VARCHAR(64) NOT NULL, caller VARCHAR(63) NOT NULL, created_s FLOAT NOT NULL,
    PRIMARY KEY (digest));
"""
"""As SQLAlchemy made it of the tables before revisions."""


def make_old_database(file: Path) -> None:
    first, second = (make_model(version).model_dump_json() for version in (1, 2))
    file.parent.mkdir(exist_ok=True)
    with sqlite3.connect(file) as connection:
        connection.executescript(OLD_SCHEMA)
        connection.execute("INSERT INTO deployments VALUES ('flowers', ?, 30.0)", [second])
        connection.execute("INSERT INTO deployments VALUES ('a-pipeline', ?, 5.0)", [PIPELINE.model_dump_json()])
        rows = [
            (1, 1, "flowers", None, first, 10.0, "done"),
            (2, 2, "flowers", first, None, 15.0, "undone"),
            (3, 3, "gone", None, first, 20.0, "done"),
            (4, 4, "gone", first, None, 25.0, "done"),
            (5, 5, "flowers", first, second, 30.0, ""),
        ]
        connection.executemany("INSERT INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO api_keys VALUES ('d', 'admin', 1.0)")
    connection.close()


def test_a_database_of_an_earlier_shoal_keeps_its_deployments_and_its_record(tmp_path: Path) -> None:
    file = tmp_path / "platform.db"
    make_old_database(file)

    for _ in range(2):
        store = DeploymentStore.open(ServingSettings(home=tmp_path))
        assert store.list_records() == [PIPELINE, make_model(2)]
        assert summarize(store.list_revisions("flowers")) == [
            (3, "deploy", "in_progress"),
            (2, "undeploy", "failed"),
            (1, "deploy", "succeeded"),
        ]
        assert summarize(store.list_revisions("gone")) == [(2, "undeploy", "succeeded"), (1, "deploy", "succeeded")]
        # It was deployed before there was any record.
        assert summarize(store.list_revisions("a-pipeline")) == [(1, "deploy", "succeeded")]
        assert store.get_settled_record("flowers") == make_model(1)
    assert [each.started_s for each in store.list_revisions("flowers")] == [30.0, 15.0, 10.0]

    change = store.begin_change({"flowers": make_model(4)}, "deploy", ORIGIN)
    assert change == 7
    assert store.list_revisions("flowers")[0].number == 4
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT caller FROM api_keys").fetchall() == [("admin",)]
    connection.close()


def test_two_processes_that_open_an_old_database_at_once_migrate_it_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    file = tmp_path / "platform.db"
    make_old_database(file)

    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: DeploymentStore(f"sqlite:///{file}"), range(8)))

    assert all(len(store.list_revisions("flowers")) == 3 for store in stores)
