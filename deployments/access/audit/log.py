"""Audit log: the table of every change and every refusal, in the database of the deployments.

A row is appended in the transaction of the change that it records, or before it begins: where the log cannot be
written, nothing is changed. Writers come one after the other, since each row has the hash of the one before; triggers
refuse to update and to delete. Whoever drops them and alters the file is found by `verify`.
"""

import contextlib
import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, create_engine, select, text
from sqlalchemy.exc import SQLAlchemyError

from deployments.access.audit.chain import GENESIS, AuditRow, Head, compute_hash, make_head
from deployments.access.audit.event import Actor, AuditAction, AuditEvent, AuditOutcome, canonicalize
from deployments.access.audit.key import AuditSigner
from deployments.access.audit.triggers import create_triggers
from deployments.settings import ServingSettings
from training.errors import ServiceError, StoreUnavailable
from training.registry.opening import check_database, lock_store
from training.settings import mask_passwords

METADATA = MetaData()
AUDIT_LOG = Table(
    "audit_log",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Text, nullable=False, index=True),
    Column("signer", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("operation", Text, nullable=False, index=True),
    # JSON in its canonical form; the hash is of what it stands for.
    Column("before", Text),
    Column("after", Text),
    Column("message", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("signature", Text, nullable=False),
)
HEAD_FILE = Path("audit") / "head.json"
# PostgreSQL's advisory locks are numbers; this is no one else's.
_ADVISORY_LOCK = 0x53686F616E
# A verification reads meanwhile, and another command may write.
BUSY_TIMEOUT_S = 30.0
logger = logging.getLogger(__name__)


class AuditUnavailable(StoreUnavailable):
    """The audit log cannot be written, so nothing may be changed."""


@dataclass
class Change:
    """A change that goes on, of which a row was appended; what is set here goes into its last row."""

    target: str
    before: Any = None
    after: Any = None
    message: str = ""


class AuditTransaction:
    """A transaction of the database that appends rows, and may write anything else with them."""

    def __init__(self, connection: Connection, signer: AuditSigner) -> None:
        self.connection = connection
        self._signer = signer
        last = connection.execute(
            select(AUDIT_LOG.c.sequence, AUDIT_LOG.c.hash).order_by(AUDIT_LOG.c.sequence.desc()).limit(1)
        ).first()
        self._sequence: int = last.sequence if last else 0
        self._hash: str = last.hash if last else GENESIS
        self.head: Head | None = None
        """Of the last row that was appended."""

    def append(self, event: AuditEvent) -> None:
        """Append a row."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        content = {"sequence": self._sequence + 1, "time": now, "signer": self._signer.id} | event.to_json()
        hash_ = compute_hash(self._hash, content)
        row = AuditRow(content, self._hash, hash_, self._signer.sign(self._sequence + 1, hash_))
        values = row.to_json() | {name: _dump(content[name]) for name in ("before", "after")}
        self.connection.execute(AUDIT_LOG.insert().values(values))
        self._sequence, self._hash, self.head = row.sequence, hash_, make_head(row)

    def end(self, operation: str, outcome: AuditOutcome, message: str = "", actor: Actor | None = None) -> bool:
        """Append the last row of a change, as its first one has it; returns False where there is none.

        Args:
            operation: of the first row.
            outcome: what came of it.
            message: why.
            actor: who ended it; None for whoever began it.
        """
        of_operation = select(AUDIT_LOG).where(AUDIT_LOG.c.operation == operation, AUDIT_LOG.c.outcome == "started")
        row = self.connection.execute(of_operation.order_by(AUDIT_LOG.c.sequence.desc()).limit(1)).mappings().first()
        if row is None:
            return False
        values = {name: row[name] for name in ("actor", "source", "action", "target", "operation", "request_id")}
        values |= {name: _load(row[name]) for name in ("before", "after")}
        if actor:
            values |= {"actor": actor.name, "source": actor.source}
        self.append(AuditEvent(**values, outcome=outcome, message=message))
        return True


class AuditLog:
    """The log, for those who write it."""

    def __init__(self, uri: str, signer: AuditSigner, head_file: Path) -> None:
        """Open the database; creates the table if there is none.

        Args:
            uri: SQLAlchemy's.
            signer: of the rows.
            head_file: keeps the last head outside of the database, so that rows that are missing at its end are found.

        Raises:
            UserError: the database cannot be opened.
        """
        check_database(uri, "SHOAL_PLATFORM_URI")
        self._signer, self._head_file = signer, head_file
        options = {"timeout": BUSY_TIMEOUT_S} if uri.startswith("sqlite") else {}
        self._engine = create_engine(uri, connect_args=options)
        with lock_store(uri, "tables"):
            METADATA.create_all(self._engine)
            create_triggers(self._engine)

    @classmethod
    def open(cls, settings: ServingSettings) -> "AuditLog":
        """Open the log of these settings, with the key of this SHOAL_HOME."""
        return cls(settings.platform, AuditSigner.open(settings.home), settings.home / HEAD_FILE)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[AuditTransaction]:
        """Write rows, and with them whatever else the database shall hold, all or nothing.

        Raises:
            AuditUnavailable: it cannot be written.
        """
        try:
            self._head_file.parent.mkdir(parents=True, exist_ok=True)
            with self._engine.begin() as connection:
                _keep_writers_out(connection)
                transaction = AuditTransaction(connection, self._signer)
                may_replace = _holds(connection, read_head(self._head_file))
                yield transaction
            if transaction.head and may_replace:
                self._keep_head(transaction.head)
        except (SQLAlchemyError, OSError) as error:
            reason = mask_passwords(" ".join(str(getattr(error, "orig", None) or error).split()))
            raise AuditUnavailable(
                f"the audit log cannot be written: {reason}; nothing may be changed without it, so correct that first"
            ) from error

    def append(self, *events: AuditEvent) -> None:
        """Append rows in a transaction of their own.

        Raises:
            AuditUnavailable: they cannot be written.
        """
        with self.transaction() as transaction:
            for event in events:
                transaction.append(event)

    @contextlib.contextmanager
    def record(
        self,
        action: AuditAction,
        target: str,
        actor: Actor | None = None,
        *,
        before: Any = None,
        after: Any = None,
        request_id: str = "",
    ) -> Iterator[Change]:
        """Record a change that the block makes elsewhere: a row before it, another one by how the block ends.

        Args:
            action: what is asked for.
            target: what it is asked of.
            actor: who asks; None for the user of this process.
            before: what is.
            after: what shall be.
            request_id: of the request that asks.

        Raises:
            AuditUnavailable: the first row cannot be written, and the block is not run; or the last one.
        """
        actor = actor or Actor.current()
        started = AuditEvent(
            actor.name, actor.source, action, target, "started", uuid.uuid4().hex, before, after, request_id=request_id
        )
        self.append(started)
        change = Change(target, before, after)
        try:
            yield change
        except BaseException as error:
            outcome: AuditOutcome = "failed" if isinstance(error, Exception) else "interrupted"
            change.message = change.message or str(error)
            self.append(replace(started, outcome=outcome, **vars(change)))
            raise
        try:
            self.append(replace(started, outcome="succeeded", **vars(change)))
        except AuditUnavailable as error:
            raise ServiceError(f"{action} {change.target} is done, but its last row is missing: {error}") from error

    def get_last(self, action: AuditAction) -> dict[str, Any] | None:
        """The content of the last row of an action."""
        with self._engine.connect() as connection:
            query = select(AUDIT_LOG).where(AUDIT_LOG.c.action == action).order_by(AUDIT_LOG.c.sequence.desc())
            row = connection.execute(query.limit(1)).mappings().first()
        return read_row(row).content if row else None

    def _keep_head(self, head: Head) -> None:
        """Keep a head, unless a later one is kept: another process may have been quicker."""
        with self._head_file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = read_head(self._head_file)
            if kept and kept.sequence > head.sequence:
                return
            temporary = self._head_file.with_suffix(".new")
            with temporary.open("w") as stream:
                stream.write(json.dumps(vars(head)))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self._head_file)


def read_head(file: Path) -> Head | None:
    """Read the head that is kept; None where there is none, or none that can be read."""
    try:
        return Head.parse(file.read_text())
    except (OSError, ValueError):
        return None


def read_row(row: Any) -> AuditRow:
    """A row of the table, whatever somebody has written into it.

    Args:
        row: a mapping of the table's columns.
    """
    values = dict(row)
    chain = {name: values.pop(name) for name in ("previous_hash", "hash", "signature")}
    for name in ("before", "after"):
        values[name] = _load(values[name])
    return AuditRow(values, **chain)


def _holds(connection: Connection, kept: Head | None) -> bool:
    """Whether the log holds the row of a kept head; one that it does not hold stays, as what shows that."""
    if kept is None:
        return True
    query = select(AUDIT_LOG.c.hash).where(AUDIT_LOG.c.sequence == kept.sequence)
    if connection.execute(query).scalar() == kept.hash:
        return True
    logger.warning("the audit log does not hold the row of the head that was kept; see `shoal audit verify`")
    return False


def _dump(value: Any) -> str | None:
    return None if value is None else canonicalize(value)


def _load(content: Any) -> Any:
    """What a column's JSON stands for; of any other form than the canonical one, what no row was hashed with."""
    if content is None:
        return None
    with contextlib.suppress(ValueError, TypeError):
        value = json.loads(content)
        if value is not None and canonicalize(value) == content:
            return value
    return {"this is no canonical JSON": content}


def _keep_writers_out(connection: Connection) -> None:
    """Let writers in one at a time, until the end of the transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
