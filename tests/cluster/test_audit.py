"""The rows of a cluster's start, settings and stop, and of changes that it finished by itself."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cluster.audit import record_start, record_stop
from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.change import finish_changes
from cluster.rollout.serve_api import ServeApi
from cluster.settings import Settings
from deployments.access.audit.event import CLUSTER
from deployments.access.audit.reader import AuditFilter, AuditReader
from deployments.state.store import DeploymentStore
from tests.cluster.rollout.conftest import cluster  # noqa: F401
from tests.cluster.rollout.test_deploy import KILLED, make_deployment, run_deploy
from training.errors import ServiceError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in (secrets.RAY_TOKEN, secrets.ADMIN_KEY):
        secrets.ensure_secret(tmp_path, name)
    return Settings(home=tmp_path)


def list_rows(settings: Settings) -> list[dict[str, Any]]:
    return [row.content for row in AuditReader(settings.platform).list_rows(AuditFilter(), 100)]


def summarize(settings: Settings) -> list[tuple[str, str]]:
    return [(row["action"], row["outcome"]) for row in list_rows(settings)]


def test_a_start_has_its_rows_and_one_of_the_settings_where_they_are_others(settings: Settings, tmp_path: Path) -> None:
    with record_start(settings):
        assert summarize(settings) == [("up", "started"), ("setting", "succeeded")]
    with record_start(settings):
        pass
    other = Settings(home=tmp_path, http_port=9000, registry_uri="postgresql://shoal:secret@host/db")
    with pytest.raises(ServiceError), record_start(other):
        raise ServiceError("no port")

    rows = list_rows(settings)
    assert summarize(settings)[2:] == [
        ("up", "succeeded"),
        ("up", "started"),
        ("up", "succeeded"),
        ("up", "started"),
        ("setting", "succeeded"),
        ("up", "failed"),
    ]
    assert rows[6]["before"] == rows[1]["after"] == {"home": str(tmp_path)}
    assert rows[6]["after"] == {
        "home": str(tmp_path),
        "http_port": "9000",
        "registry_uri": "postgresql://shoal:***@host/db",
    }


def test_a_cluster_is_stopped_without_a_row_where_none_can_be_written(settings: Settings) -> None:
    warnings: list[str] = []
    with record_stop(settings, warnings.append):
        pass
    assert (summarize(settings), warnings) == ([("down", "started"), ("down", "succeeded")], [])
    with sqlite3.connect(settings.home / "platform.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    database.close()

    stopped = []
    with record_stop(settings, warnings.append):
        stopped.append(1)

    assert stopped == [1]
    assert warnings[0].startswith("the cluster is stopped without a row in the audit log: the audit log cannot be")


def test_what_a_killed_command_began_is_ended_by_the_cluster(settings: Settings, cluster: Cluster) -> None:  # noqa: F811
    run_deploy(settings, cluster, 1)
    store = DeploymentStore.open(settings)
    store.begin_change({"m": make_deployment(2)}, "deploy", KILLED)
    assert summarize(settings)[-1] == ("deploy", "started")
    with ServeApi(settings, cluster) as serve:
        while finish_changes(settings, serve):
            pass

    row = list_rows(settings)[-1]
    assert (row["action"], row["actor"], row["outcome"]) == ("deploy", CLUSTER, "succeeded")
    assert row["message"] == "its command was killed; the cluster finished it"
    assert row["after"]["spec"]["endpoint"]["version"] == 2
