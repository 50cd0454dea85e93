"""`shoal audit`: lists, exports, verifies; with a SHOAL_HOME in which two bundles were published, and no cluster."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import typer

from cluster.cli.app import app
from deployments.access.audit.event import ACTIONS, Actor
from tests.cluster.cli.conftest import make_in_process_cli
from tests.conftest import ShoalCli
from tests.small_bundles import save_table


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SHOAL_HOME of which a model was published twice, promoted, and deleted."""
    folder = tmp_path_factory.mktemp("audit")
    shoal = make_in_process_cli(folder / "home")
    for number in (1, 2):
        save_table(folder / f"table-{number}", summary=f"Bundle {number}.")
        result = shoal("models", "import", str(folder / f"table-{number}"))
        assert result.returncode == 0, result.stderr
    assert shoal("models", "promote", "flowers", "2", "--as", "champion").returncode == 0
    assert shoal("models", "delete", "flowers:1").returncode == 0
    assert shoal("models", "promote", "flowers", "1", "--as", "champion").returncode == 2
    return folder / "home"


@pytest.fixture
def shoal(published: Path, tmp_path: Path) -> ShoalCli:
    shutil.copytree(published, tmp_path / "home")
    return make_in_process_cli(tmp_path / "home")


def tamper(home: Path, *statements: str) -> None:
    with sqlite3.connect(home / "platform.db") as database:
        for name in ("update", "delete", "replace"):
            database.execute(f"DROP TRIGGER audit_log_no_{name}")
        for statement in statements:
            database.execute(statement)
    database.close()


def test_every_change_of_the_registry_is_a_row_before_and_one_after(shoal: ShoalCli) -> None:
    rows = json.loads(shoal("audit", "--json").stdout)

    assert [(row["action"], row["target"], row["outcome"]) for row in rows] == [
        ("models.publish", "flowers", "started"),
        ("models.alias", "flowers@champion", "started"),
        ("models.alias", "flowers@champion", "succeeded"),
        ("models.publish", "flowers:1", "succeeded"),
        ("models.publish", "flowers", "started"),
        ("models.publish", "flowers:2", "succeeded"),
        ("models.alias", "flowers@champion", "started"),
        ("models.alias", "flowers@champion", "succeeded"),
        ("models.delete", "flowers:1", "started"),
        ("models.delete", "flowers:1", "succeeded"),
    ]
    assert {row["actor"] for row in rows} == {Actor.current().name}
    promoted = rows[7]
    assert (promoted["before"]["version"], promoted["after"]["version"]) == (1, 2)
    assert rows[9]["before"]["digest"] == promoted["before"]["digest"]


CHANGES = {
    "up": {"up", "setting"},
    "down": {"down"},
    "demo": {"up", "train", "models.publish", "deploy"},
    "train": {"train", "models.publish", "job.submit"},
    "deploy": {"deploy", "scale", "refresh", "canary"},
    "apply": {"apply", "refresh"},
    "undeploy": {"undeploy"},
    "rollback": {"rollback"},
    "rollout promote": {"promote"},
    "rollout abort": {"abort"},
    "models promote": {"models.alias"},
    "models import": {"models.publish"},
    "models delete": {"models.delete"},
    "models sign": {"models.sign"},
    "trust add": {"trust.add"},
    "trust remove": {"trust.remove"},
    "runs delete": {"runs.delete"},
    "keys create": {"key.create"},
    "keys update": {"key.update"},
    "keys rotate": {"key.rotate"},
    "keys revoke": {"key.revoke"},
    "tenants set": {"tenant.update"},
}
"""What a command that changes something is called in the log."""

READS = {
    # They make files of this SHOAL_HOME, which a head's database does not know.
    *("init", "join"),
    *("logs", "monitoring", "settings", "status", "history", "profile", "plan", "predict", "trace", "reproduce"),
    *("models list", "models show", "models export", "models verify", "trust list", "trust key", "rollout status"),
    *("tenants list", "tenants show", "usage capacity", "usage export", "invoice"),
    *("runs list", "runs show", "runs compare", "keys list", "keys show", "recipes list", "recipes show"),
    *("audit export", "audit verify", "audit head"),
}


def test_every_command_that_changes_something_has_its_action() -> None:
    root: Any = typer.main.get_command(app)
    commands = set()
    for name, command in root.commands.items():
        commands |= {f"{name} {sub}" for sub in getattr(command, "commands", {})} or {name}

    assert commands == CHANGES.keys() | READS, "say whether a new command changes something, and record it if it does"
    # The rest is what nobody's command does: refusals.
    assert set(ACTIONS) - set().union(*CHANGES.values()) == {"access.refused"}


def test_what_is_trusted_signed_and_limited_is_a_row_each(shoal: ShoalCli, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(make_in_process_cli(tmp_path / "other")("trust", "key").stdout)
    assert shoal("trust", "add", "partner", str(tmp_path / "key.pem")).returncode == 0
    assert shoal("trust", "remove", "partner").returncode == 0
    assert shoal("models", "sign", "flowers").returncode == 0
    assert shoal("tenants", "set", "acme", "--limit", "requests=100/day").returncode == 0

    rows = json.loads(shoal("audit", "--limit", "4", "--outcome", "succeeded", "--json").stdout)

    assert [(row["action"], row["target"]) for row in rows] == [
        ("trust.add", "partner"),
        ("trust.remove", "partner"),
        ("models.sign", "flowers:2"),
        ("tenant.update", "acme"),
    ]
    assert (rows[3]["before"]["limits"], rows[3]["after"]["limits"]) == ({}, {"requests/day": "100"})
    assert rows[0]["after"] == rows[1]["before"] != {}


def test_rows_are_a_table_by_who_what_and_when(shoal: ShoalCli) -> None:
    everything = shoal("audit").stdout.splitlines()
    deleted = shoal(
        "audit", "--action", "models.delete", "--since", "1h", "--actor", Actor.current().name, "--limit", "1"
    )

    assert everything[0].split() == ["row", "when", "actor", "action", "target", "outcome", "message"]
    assert len(everything) == 11
    (line,) = deleted.stdout.splitlines()[1:]
    assert line.split()[0] == "10"
    assert line.endswith("models.delete  flowers:1  succeeded")
    assert shoal("audit", "--since", "2099-01-01").stdout == "no rows\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("audit", "--action", "destroy"), "--action 'destroy' is none; it is one of deploy, apply,"),
        (("audit", "--since", "soon"), "--since 'soon' is no time; write 30m, 1h, 7d, or"),
        (("audit", "verify", "--head", "nowhere"), "the head nowhere cannot be read: No such file or directory"),
        (("audit", "verify", "--file", "nowhere"), "nowhere cannot be read: No such file or directory"),
        (("audit", "verify", "--public-key", "nowhere"), "the public key nowhere cannot be read"),
    ],
)
def test_bad_input_says_what_to_write(shoal: ShoalCli, arguments: tuple[str, ...], message: str) -> None:
    result = shoal(*arguments)

    assert result.returncode == 2
    assert message in result.stderr


def test_an_export_is_verified_elsewhere_with_the_public_key_alone(shoal: ShoalCli, tmp_path: Path) -> None:
    export, key, head = tmp_path / "export.jsonl", tmp_path / "key.pub", tmp_path / "head.json"
    assert shoal("audit", "export", str(export)).stdout == f"wrote 10 rows to {export}\n"
    assert shoal("audit", "export").stdout == export.read_text()
    head.write_text(shoal("audit", "head").stdout)
    shutil.copy(tmp_path / "home" / "secrets" / "audit_key.pub", key)
    elsewhere = make_in_process_cli(tmp_path / "other")
    arguments = ("audit", "verify", "--file", str(export), "--public-key", str(key), "--head", str(head))

    result = elsewhere(*arguments)
    assert (result.returncode, result.stdout.partition(",")[0]) == (0, "verified: 10 rows"), result.stderr
    lines = export.read_text().splitlines(keepends=True)

    export.write_text("".join([*lines[:4], lines[4].replace('"started"', '"succeeded"'), *lines[5:]]))
    result = elsewhere(*arguments)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "row 5 was altered: it has not the hash of its content",
        "not verified: 1 problem in 10 rows",
    ]

    export.write_text("".join(lines[:9]))
    result = elsewhere(*arguments, "--json")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert (found["verified"], found["rows"], found["problems"][0]["row"]) == (False, 9, 10)
    assert shoal("audit", "export", str(export)).returncode == 2


def test_tampering_is_found_and_the_rows_are_listed_still(shoal: ShoalCli, tmp_path: Path) -> None:
    assert shoal("audit", "verify").returncode == 0
    tamper(tmp_path / "home", "UPDATE audit_log SET actor = 'nobody' WHERE sequence = 9")

    result = shoal("audit", "verify")

    assert result.returncode == 1
    assert result.stdout.startswith("row 9 was altered: it has not the hash of its content\n")
    assert "the trigger audit_log_no_update, which refuses changes of rows, is not there" in result.stderr
    assert "nobody" in shoal("audit").stdout


def test_a_log_that_was_cut_is_found_by_the_head_in_shoal_home(shoal: ShoalCli, tmp_path: Path) -> None:
    tamper(tmp_path / "home", "DELETE FROM audit_log WHERE sequence > 8")
    result = shoal("audit", "verify")
    assert result.returncode == 1
    assert result.stdout.startswith("rows 9 to 10 are missing: the log ends with row 8, and a kept head says")

    (tmp_path / "home" / "audit" / "head.json").unlink()
    result = shoal("audit", "verify")
    assert result.returncode == 0
    assert "no head is kept here" in result.stderr


def test_nothing_is_changed_where_the_log_cannot_be_written(shoal: ShoalCli, tmp_path: Path) -> None:
    tamper(
        tmp_path / "home", "CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )

    result = shoal("models", "promote", "flowers", "2", "--as", "challenger")

    assert result.returncode == 2
    assert "error: the audit log cannot be written: disk full; nothing may be changed without it" in result.stderr
    assert "challenger" not in shoal("models").stdout


def test_an_empty_home_has_no_log(tmp_path: Path) -> None:
    shoal = make_in_process_cli(tmp_path / "empty")

    assert shoal("audit").stdout == "no rows yet; `shoal up` writes the first\n"
    assert shoal("audit", "--json").stdout == "[]\n"
    assert shoal("audit", "head").returncode == 2
    assert shoal("init").returncode == 0
    assert shoal("audit", "verify").stdout == "verified: 0 rows\n"
    assert not (tmp_path / "empty" / "platform.db").exists()
