"""The audit log of a real cluster: a deployment, a rollback and refused calls are rows; whoever alters one is found."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
import httpx
import pytest

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy, rollback
from cluster.settings import Settings
from deployments.access.audit.event import Actor
from deployments.access.audit.reader import AuditFilter, AuditReader
from tests.conftest import ShoalCli, wait_until
from training.registry.model_registry import Registry


def list_rows(settings: Settings, since: int) -> list[dict[str, Any]]:
    """The content of the rows after one."""
    rows = AuditReader(settings.platform).list_rows(AuditFilter(), 1000)
    return [row.content for row in rows if row.sequence > since]


@contextmanager
def altered(settings: Settings, sequence: int) -> Iterator[None]:
    """Alter a row of the live database as root could, and put it back: other tests share the cluster."""
    with closing(sqlite3.connect(settings.home / "platform.db", timeout=30)) as database:
        triggers = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'audit_log' AND type = 'trigger'"
        )
        saved = triggers.fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="the audit log is append-only"), database:
            database.execute("UPDATE audit_log SET actor = 'nobody' WHERE sequence = ?", [sequence])
        (before,) = database.execute("SELECT actor FROM audit_log WHERE sequence = ?", [sequence]).fetchone()
        try:
            with database:
                for name, _ in saved:
                    database.execute(f"DROP TRIGGER {name}")
                database.execute("UPDATE audit_log SET actor = 'nobody' WHERE sequence = ?", [sequence])
            yield
        finally:
            with database:
                database.execute("UPDATE audit_log SET actor = ? WHERE sequence = ?", [before, sequence])
                for _, statement in saved:
                    database.execute(statement)


def test_changes_and_refusals_are_rows_and_an_altered_one_is_named(
    settings: Settings, serving_cluster: Cluster, shoal: ShoalCli
) -> None:
    first = list_rows(settings, 0)[-1]["sequence"]
    version = Registry(settings).resolve("flowers")
    deploy(settings, serving_cluster, version, lambda status: None, scale={"max_replicas": 3})
    rollback(settings, serving_cluster, "flowers", lambda status: None)
    url = f"{serving_cluster.url}/v2/models/flowers/infer"
    for _ in range(3):
        refused = httpx.post(url, headers={"authorization": "Bearer wrong"}, json={}, trust_env=False)
        assert refused.status_code == 401
    with grpc.insecure_channel(serving_cluster.grpc_address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=10)

    def list_refused() -> dict[str, int]:
        refusals = [row for row in list_rows(settings, first) if row["action"] == "access.refused"]
        targets = {row["target"] for row in refusals}
        return {each: sum(row["after"]["count"] for row in refusals if row["target"] == each) for each in targets}

    wanted = {"POST /v2/models/flowers/infer": 3, "gRPC /inference.GRPCInferenceService/ModelInfer": 1}
    assert wait_until(lambda: wanted.items() <= list_refused().items(), 10), list_refused()
    changes = [row for row in list_rows(settings, first) if row["target"] == "flowers"]
    assert [(row["action"], row["outcome"]) for row in changes] == [
        ("scale", "started"),
        ("scale", "succeeded"),
        ("rollback", "started"),
        ("rollback", "succeeded"),
    ]
    assert {row["actor"] for row in changes} == {Actor.current().name}
    assert changes[1]["after"]["spec"]["scale"]["max_replicas"] == 3
    assert changes[3]["before"] == changes[1]["after"]
    assert changes[3]["after"] == changes[1]["before"]

    verified = shoal("audit", "verify")
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout
    sequence = changes[1]["sequence"]
    with altered(settings, sequence):
        found = shoal("audit", "verify")
    assert found.returncode == 1
    assert found.stdout.startswith(f"row {sequence} was altered: it has not the hash of its content\n")
    assert shoal("audit", "verify").returncode == 0


def test_the_start_of_the_cluster_and_its_settings_are_rows(settings: Settings, serving_cluster: Cluster) -> None:
    rows = list_rows(settings, 0)

    # The first rows are those of `shoal up`.
    assert [(row["action"], row["outcome"]) for row in rows[:2]] == [("up", "started"), ("setting", "succeeded")]
    assert rows[1]["after"]["http_port"] == "0"
    ended = next(row for row in rows if row["operation"] == rows[0]["operation"] and row["outcome"] != "started")
    assert (ended["action"], ended["outcome"], ended["actor"]) == ("up", "succeeded", Actor.current().name)
