"""The log in a live database, SQLite and PostgreSQL: append-only, and whatever is done to it by SQL is found."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deployments.access.audit.event import Actor, AuditEvent
from deployments.access.audit.key import AuditSigner
from deployments.access.audit.log import HEAD_FILE, AuditLog, AuditUnavailable, read_head
from deployments.access.audit.reader import AuditFilter, AuditReader
from tests.deployments.access.conftest import Database
from training.errors import ServiceError

EVENT = AuditEvent("ann@machine", "uid 1000", "deploy", "flowers", "succeeded", "flowers/1", None, {"version": 1})
DROPS = {
    "sqlite": [
        f"DROP TRIGGER {name}" for name in ("audit_log_no_update", "audit_log_no_delete", "audit_log_no_replace")
    ],
    "postgresql": [f"DROP TRIGGER {name} ON audit_log" for name in ("audit_log_no_change", "audit_log_no_truncate")],
}


@pytest.fixture
def log(database: Database) -> AuditLog:
    """A log of six rows."""
    log = database.open_log()
    log.append(*(AuditEvent("ann@machine", "", "deploy", f"model-{number}", "succeeded") for number in range(1, 7)))
    return log


def tamper(database: Database, *statements: str, drops: bool = True) -> None:
    with database.open_engine().begin() as connection:
        for statement in [*(DROPS[connection.dialect.name] if drops else []), *statements]:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody' WHERE sequence = 3",
        "DELETE FROM audit_log WHERE sequence = 6",
        "DELETE FROM audit_log",
    ],
)
def test_the_database_refuses_to_change_rows(database: Database, log: AuditLog, statement: str) -> None:
    with pytest.raises(DBAPIError, match="the audit log is append-only"):
        tamper(database, statement, drops=False)
    assert database.verify().rows == 6
    assert database.list_problems() == []


def test_ways_around_an_update_are_refused_too(database: Database, log: AuditLog) -> None:
    copied = "SELECT * FROM audit_log WHERE sequence = 3"
    statement = {
        "sqlite": f"INSERT OR REPLACE INTO audit_log {copied}",
        "postgresql": "TRUNCATE audit_log",
    }[database.open_engine().dialect.name]

    with pytest.raises(DBAPIError, match="the audit log is append-only"):
        tamper(database, statement, drops=False)


ALTERED = "row 3 was altered: it has not the hash of its content"


@pytest.mark.parametrize(
    ("statements", "row", "message"),
    [
        (["UPDATE audit_log SET actor = 'nobody' WHERE sequence = 3"], 3, ALTERED),
        (["UPDATE audit_log SET after = '{\"version\": 2}' WHERE sequence = 3"], 3, ALTERED),
        (["UPDATE audit_log SET after = 'null' WHERE sequence = 3"], 3, ALTERED),
        (["UPDATE audit_log SET time = '1970-01-01T00:00:00.000000Z' WHERE sequence = 3"], 3, ALTERED),
        (["UPDATE audit_log SET outcome = 'failed', hash = 'x' WHERE sequence = 3"], 3, ALTERED),
        (["UPDATE audit_log SET signature = 'AAAA' WHERE sequence = 3"], 3, "row 3 has a signature that is not"),
        (["DELETE FROM audit_log WHERE sequence = 3"], 3, "row 3 is missing"),
        (["DELETE FROM audit_log WHERE sequence IN (1, 2)"], 1, "rows 1 to 2 are missing"),
        (["DELETE FROM audit_log WHERE sequence > 4"], 5, "rows 5 to 6 are missing: the log ends with row 4"),
        (["DELETE FROM audit_log"], 1, "rows 1 to 6 are missing"),
        (["DROP TABLE audit_log"], 1, "rows 1 to 6 are missing"),
        (
            [
                "UPDATE audit_log SET sequence = 30 WHERE sequence = 3",
                "UPDATE audit_log SET sequence = 3 WHERE sequence = 4",
                "UPDATE audit_log SET sequence = 4 WHERE sequence = 30",
            ],
            3,
            ALTERED,
        ),
        (
            [
                "DELETE FROM audit_log WHERE sequence = 3",
                "UPDATE audit_log SET sequence = sequence - 1 WHERE sequence = 4",
                "UPDATE audit_log SET sequence = sequence - 1 WHERE sequence = 5",
                "UPDATE audit_log SET sequence = sequence - 1 WHERE sequence = 6",
            ],
            3,
            ALTERED,
        ),
        (
            [
                "INSERT INTO audit_log SELECT 7, time, signer, actor, source, action, target, outcome, operation, "
                "before, after, message, request_id, hash, hash, signature FROM audit_log WHERE sequence = 6"
            ],
            7,
            "row 7 was altered",
        ),
    ],
)
def test_tampering_by_sql_is_found_and_the_row_named(
    database: Database, log: AuditLog, statements: list[str], row: int, message: str
) -> None:
    assert database.list_problems() == []

    tamper(database, *statements)

    problems = database.list_problems()
    assert problems[0][0] == row
    assert problems[0][1].startswith(message)


def test_a_column_may_hold_anything_and_is_shown_still(database: Database, log: AuditLog) -> None:
    blob = {"sqlite": "x'00ff'", "postgresql": "'\\x00ff'"}[database.open_engine().dialect.name]
    tamper(database, f"UPDATE audit_log SET before = '{{', message = {blob} WHERE sequence = 2")

    assert [problem.row for problem in database.verify().problems] == [2]
    assert len(AuditReader(database.uri).list_rows(AuditFilter(), 10)) == 6
    log.append(EVENT)
    assert [problem.row for problem in database.verify().problems] == [2]


@pytest.mark.parametrize("count", [1, 4])
def test_what_is_written_after_a_cut_does_not_hide_it(
    database: Database, log: AuditLog, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    tamper(database, "DELETE FROM audit_log WHERE sequence > 3")
    for _ in range(count):
        database.open_log().append(EVENT)

    ((row, message),) = database.list_problems()
    if count == 1:
        assert (row, message.partition(":")[0]) == (5, "rows 5 to 6 are missing")
    else:
        # There is a row 6 again, and not the one that was.
        assert (row, message) == (6, "row 6 is not the one that the kept head was made of")
    assert "the audit log does not hold the row of the head that was kept" in caplog.text


def test_triggers_that_were_dropped_are_missed_and_come_back_with_the_next_writer(
    database: Database, log: AuditLog
) -> None:
    assert AuditReader(database.uri).list_missing_triggers() == []
    tamper(database, "SELECT 1")
    assert len(AuditReader(database.uri).list_missing_triggers()) >= 2

    database.open_log()

    assert AuditReader(database.uri).list_missing_triggers() == []
    with pytest.raises(DBAPIError, match="append-only"):
        tamper(database, "DELETE FROM audit_log", drops=False)


def test_a_row_and_the_change_that_it_records_are_written_together_or_not_at_all(database: Database) -> None:
    log = database.open_log()
    with log.transaction() as transaction:
        transaction.connection.execute(text("CREATE TABLE things (name VARCHAR(20))"))
        transaction.append(EVENT)

    with pytest.raises(ZeroDivisionError), log.transaction() as transaction:  # noqa: PT012 - what is left of both
        transaction.connection.execute(text("INSERT INTO things VALUES ('one')"))
        transaction.append(EVENT)
        _ = 1 / 0

    with database.open_engine().connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM things")).scalar() == 0
    assert database.verify().rows == 1
    head = read_head(database.home / HEAD_FILE)
    assert head
    assert head.sequence == 1


WRITER = """
import sys
from pathlib import Path
from deployments.access.audit.event import AuditEvent
from deployments.access.audit.key import AuditSigner
from deployments.access.audit.log import HEAD_FILE, AuditLog
home = Path(sys.argv[2])
log = AuditLog(sys.argv[1], AuditSigner.open(home), home / HEAD_FILE)
for number in range(20):
    log.append(AuditEvent(sys.argv[3], "", "deploy", str(number), "succeeded"))
"""


def test_writers_in_threads_and_processes_make_one_chain(database: Database) -> None:
    log = database.open_log()
    command = [sys.executable, "-c", WRITER, database.uri, str(database.home)]
    processes = [subprocess.Popen([*command, f"process {number}"]) for number in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: log.append(EVENT), range(40)))
    assert [process.wait(60) for process in processes] == [0, 0]

    verification = database.verify()
    assert verification.problems == ()
    assert verification.rows == 80
    head = read_head(database.home / HEAD_FILE)
    assert head == verification.head


def test_a_change_elsewhere_has_a_row_before_and_one_after(database: Database) -> None:
    log = database.open_log()
    with log.record("models.alias", "m@champion", before={"version": 1}) as change:
        assert [row.content["outcome"] for row in AuditReader(database.uri).iterate_rows()] == ["started"]
        change.after = {"version": 2}
    with pytest.raises(ServiceError), log.record("up", "cluster", Actor("bob", "10.0.0.1"), request_id="r1"):
        raise ServiceError("no port")
    with pytest.raises(KeyboardInterrupt), log.record("train", "iris"):
        raise KeyboardInterrupt

    first, second, *others = [row.content for row in AuditReader(database.uri).iterate_rows()]
    assert (first["actor"], first["source"]) == (Actor.current().name, Actor.current().source)
    assert (first["operation"], first["before"], first["after"]) == (second["operation"], {"version": 1}, None)
    assert (second["outcome"], second["after"]) == ("succeeded", {"version": 2})
    assert [(each["action"], each["outcome"], each["message"]) for each in others] == [
        ("up", "started", ""),
        ("up", "failed", "no port"),
        ("train", "started", ""),
        ("train", "interrupted", ""),
    ]
    assert (others[1]["actor"], others[1]["source"], others[1]["request_id"]) == ("bob", "10.0.0.1", "r1")
    assert database.list_problems() == []


def test_a_change_is_refused_where_its_row_cannot_be_written(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'platform.db'}", tmp_path)
    log = database.open_log()
    tamper(database, "ALTER TABLE audit_log RENAME TO another", drops=False)

    with (
        pytest.raises(AuditUnavailable, match=r"cannot be written: no such table: audit_log; nothing may be changed"),
        log.record("up", "cluster"),
    ):
        pytest.fail("the block was run")


def test_a_change_that_is_done_and_whose_last_row_cannot_be_written_says_so(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'platform.db'}", tmp_path)
    log = database.open_log()

    with (
        pytest.raises(ServiceError, match="up cluster is done, but its last row is missing"),
        log.record("up", "cluster"),
    ):
        tamper(database, "ALTER TABLE audit_log RENAME TO another", drops=False)


def test_a_head_that_cannot_be_kept_is_no_reason_to_lose_a_row(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'platform.db'}", tmp_path)
    log = database.open_log()
    log.append(EVENT)
    (tmp_path / HEAD_FILE).write_text("{}")

    log.append(EVENT)

    assert database.verify().rows == 2
    assert database.list_problems() == []


def test_rows_are_listed_by_what_they_are(database: Database) -> None:
    log = database.open_log()
    for actor, action, outcome in [
        ("ann@machine", "deploy", "succeeded"),
        ("team/ann", "rollback", "failed"),
        ("ann_@machine", "deploy", "succeeded"),
        ("bob@machine", "deploy", "succeeded"),
    ]:
        log.append(AuditEvent(actor, "", action, f"of {actor}", outcome))  # type: ignore[arg-type]
    reader = AuditReader(database.uri)

    def list_numbers(limit: int = 10, **values: object) -> list[int]:
        return [row.sequence for row in reader.list_rows(AuditFilter(**values), limit)]  # type: ignore[arg-type]

    assert list_numbers() == [1, 2, 3, 4]
    assert list_numbers(2) == [3, 4]
    assert list_numbers(actor="ann") == [1, 2]
    assert list_numbers(actor="bob@machine") == [4]
    assert list_numbers(action="deploy", target="of bob@machine") == [4]
    assert list_numbers(outcome="failed") == [2]
    now = datetime.now(UTC)
    assert list_numbers(since=now - timedelta(hours=1)) == [1, 2, 3, 4]
    assert list_numbers(since=now + timedelta(seconds=5)) == []


def test_reading_creates_nothing(tmp_path: Path) -> None:
    reader = AuditReader(f"sqlite:///{tmp_path / 'none' / 'platform.db'}")

    assert list(reader.iterate_rows()) == reader.list_rows(AuditFilter(), 5) == []
    assert not (tmp_path / "none" / "platform.db").exists()


def test_another_machines_rows_are_trusted_with_its_key_only(database: Database, tmp_path: Path) -> None:
    database.open_log().append(EVENT)
    other_home = tmp_path / "other"
    AuditLog(database.uri, AuditSigner.open(other_home), other_home / HEAD_FILE).append(EVENT)

    assert [problem.row for problem in database.verify().problems] == [2]
    public = database.home / "secrets" / "audit_key.pub"
    public.write_text(public.read_text() + (other_home / "secrets" / "audit_key.pub").read_text())
    assert database.list_problems() == []
