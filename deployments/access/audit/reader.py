"""Audit reader: lists, exports and verifies the audit log; creates nothing, and needs no private key.

Rows are read in short queries: one that takes long would hold SQLite's writers up.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, Select, create_engine, inspect, select

from deployments.access.audit.chain import AuditRow, Head, Verification, verify_rows
from deployments.access.audit.key import PublicKeys
from deployments.access.audit.log import AUDIT_LOG, BUSY_TIMEOUT_S, read_row
from deployments.access.audit.triggers import list_missing
from training.registry.opening import check_database

BATCH_ROWS = 5000


@dataclass(frozen=True)
class AuditFilter:
    """Which rows are listed: all that are set must hold.

    Attributes:
        since: not before.
        actor: whole, or the part before `@` or after `/`.
        action: of the row.
        target: whole.
        outcome: of the row.
    """

    since: datetime | None = None
    actor: str = ""
    action: str = ""
    target: str = ""
    outcome: str = ""


class AuditReader:
    """The log, for those who read it."""

    def __init__(self, uri: str) -> None:
        """Open the database, if there is one.

        Raises:
            UserError: it cannot be opened.
        """
        check_database(uri, "SHOAL_PLATFORM_URI")
        self._engine: Engine | None = None
        # SQLite would create its file.
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).exists():
            return
        options = {"timeout": BUSY_TIMEOUT_S} if uri.startswith("sqlite") else {}
        engine = create_engine(uri, connect_args=options)
        if inspect(engine).has_table(AUDIT_LOG.name):
            self._engine = engine

    def list_rows(self, wanted: AuditFilter, limit: int) -> list[AuditRow]:
        """List the last rows that a filter lets through, oldest first."""
        query = select(AUDIT_LOG)
        if wanted.since:
            query = query.where(AUDIT_LOG.c.time >= wanted.since.isoformat(timespec="microseconds"))
        if wanted.actor:
            actor = AUDIT_LOG.c.actor
            is_part = actor.startswith(f"{wanted.actor}@", autoescape=True)
            is_part |= actor.endswith(f"/{wanted.actor}", autoescape=True)
            query = query.where((actor == wanted.actor) | is_part)
        for name in ("action", "target", "outcome"):
            if value := getattr(wanted, name):
                query = query.where(AUDIT_LOG.c[name] == value)
        return self._fetch(query.order_by(AUDIT_LOG.c.sequence.desc()).limit(limit))[::-1]

    def iterate_rows(self) -> Iterator[AuditRow]:
        """All rows, in their order."""
        last = None
        while True:
            query = select(AUDIT_LOG).order_by(AUDIT_LOG.c.sequence).limit(BATCH_ROWS)
            rows = self._fetch(query if last is None else query.where(AUDIT_LOG.c.sequence > last))
            yield from rows
            if len(rows) < BATCH_ROWS:
                return
            last = rows[-1].sequence

    def verify(self, keys: PublicKeys, heads: Iterable[Head] = ()) -> Verification:
        """Verify all rows."""
        return verify_rows(self.iterate_rows(), keys, heads)

    def list_missing_triggers(self) -> list[str]:
        """The names of the triggers that should refuse changes, and are not there."""
        if self._engine is None:
            return []
        with self._engine.connect() as connection:
            return list_missing(connection)

    def _fetch(self, query: Select[tuple[object, ...]]) -> list[AuditRow]:
        if self._engine is None:
            return []
        with self._engine.connect() as connection:
            return [read_row(row) for row in connection.execute(query).mappings()]
