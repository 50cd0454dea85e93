"""Migration: brings the tables of an earlier Shoal to today's, with what they hold.

Deploy walk: store.py -> [migration.py] -> revisions.py
"""

from typing import Any

from sqlalchemy import Connection, Engine, inspect, select, table, text

from deployments.state.revisions import REVISIONS, Action, Outcome

# Every change of all names, before names had revisions of their own; `outcome` was empty while it went on.
_OLD_TABLE = "rollouts"
_OLD_OUTCOMES: dict[str, tuple[Outcome, str]] = {
    "done": ("succeeded", ""),
    "undone": ("failed", "undone; why was not kept"),
    # Its command's process was not kept either: whoever has the lock finds it.
    "": ("in_progress", ""),
}
_UNKNOWN = "unknown"


def migrate_rollouts(engine: Engine) -> None:
    """Turn the rows of the old table into revisions, and drop it; nothing where it is not there.

    The caller keeps other processes from the tables. Rows and table change in one transaction.
    """
    if not inspect(engine).has_table(_OLD_TABLE):
        return
    with engine.begin() as connection:
        _insert_deployed(connection, _insert_rollouts(connection))
        connection.execute(text(f"DROP TABLE {_OLD_TABLE}"))


def _insert_rollouts(connection: Connection) -> dict[str, int]:
    """Insert a revision for each row; returns the number of each name's last one."""
    numbers: dict[str, int] = {}
    # Of several open ones, as no Shoal leaves them, only the last is.
    rows: list[Any] = list(
        connection.execute(select(text("*")).select_from(table(_OLD_TABLE)).order_by(text("id"))).mappings()
    )
    for row in rows:
        name = row["name"]
        numbers[name] = numbers.get(name, 0) + 1
        outcome, message = _OLD_OUTCOMES.get(row["outcome"], ("failed", f"outcome {row['outcome']!r}"))
        action: Action = "undeploy" if row["spec"] is None else "deploy"
        connection.execute(
            REVISIONS.insert().values(
                name=name,
                number=numbers[name],
                change=row["revision"],
                action=action,
                spec=row["spec"],
                previous_spec=row["previous_spec"],
                author=_UNKNOWN,
                reason="",
                owner=_UNKNOWN,
                started_s=row["started_s"],
                ended_s=None if outcome == "in_progress" else row["started_s"],
                outcome=outcome,
                message=message,
            )
        )
    return numbers


def _insert_deployed(connection: Connection, numbers: dict[str, int]) -> None:
    """Insert a revision for what was deployed before there was any record of changes."""
    change = max([0, *connection.execute(text("SELECT change FROM revisions")).scalars()])
    for row in connection.execute(text("SELECT name, spec, updated_s FROM deployments ORDER BY name")).all():
        if row.name in numbers:
            continue
        change += 1
        connection.execute(
            REVISIONS.insert().values(
                name=row.name,
                number=1,
                change=change,
                action="deploy",
                spec=row.spec,
                author=_UNKNOWN,
                reason="",
                owner=_UNKNOWN,
                started_s=row.updated_s,
                ended_s=row.updated_s,
                outcome="succeeded",
                message="",
            )
        )
