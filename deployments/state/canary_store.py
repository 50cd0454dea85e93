"""Canary store: the rollouts that compare a new version with the one that serves, and the evidence of each.

Rollout walk: cluster.rollout.canary -> [canary_store.py] -> deployments.rollout.controller
The command writes `spec` and `requested`, the controller `state` and `evidence`, so that neither overwrites the other.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    create_engine,
    insert,
    select,
    update,
)

from deployments.access.audit.event import Actor
from deployments.access.audit.log import AuditLog, AuditTransaction
from deployments.rollout.canary import Canary, CanarySpec, CanaryState
from deployments.settings import ServingSettings
from deployments.state import canary_audit
from training.errors import UserError
from training.registry.opening import lock_store

_METADATA = MetaData()
_CANARIES = Table(
    "canaries",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(63), nullable=False, index=True),
    Column("spec", Text, nullable=False),
    Column("state", Text, nullable=False),
    # The sequential tests' own state, with which a controller goes on.
    Column("comparison", JSON),
    Column("requested", String(10), nullable=False),
    Column("started_s", Float, nullable=False),
    Column("ended_s", Float, index=True),
)
_VALUES = (_CANARIES.c.id, _CANARIES.c.spec, _CANARIES.c.state, _CANARIES.c.requested)
_TIMES = (_CANARIES.c.started_s, _CANARIES.c.ended_s)


class CanaryStore:
    """The table of rollouts, in SQLite or PostgreSQL."""

    def __init__(self, uri: str, audit: AuditLog | None = None) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
            audit: log of the changes, in the same database; None for reading alone.
        """
        self._audit = audit
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    @classmethod
    def open(cls, settings: ServingSettings) -> "CanaryStore":
        """Open the database of these settings for changes, with their audit log."""
        return cls(settings.platform, AuditLog.open(settings))

    def begin(self, spec: CanarySpec, source: str = "") -> Canary:
        """Begin a rollout.

        Args:
            spec: what it shall do.
            source: where its author acts from.

        Raises:
            UserError: one of this model goes on.
        """
        self.reject_if_active(spec.name)
        values = {"name": spec.name, "spec": spec.model_dump_json(), "state": CanaryState().model_dump_json()}
        with self._change() as transaction:
            row = insert(_CANARIES).values(**values, requested="", started_s=time.time()).returning(_CANARIES.c.id)
            canary_audit.record_begun(transaction, transaction.connection.execute(row).scalar_one(), spec, source)
        canary = self.get_last(spec.name)
        assert canary is not None
        return canary

    def reject_if_active(self, name: str) -> None:
        """Raise UserError where a rollout of this model goes on."""
        canary = next((each for each in self.list_active() if each.spec.name == name), None)
        if canary:
            raise UserError(
                f"{name}:{canary.spec.version} is being rolled out beside version {canary.spec.stable_version}; "
                f"`shoal rollout promote {name}` or `shoal rollout abort {name}` first"
            )

    def list_active(self) -> list[Canary]:
        """List the rollouts of which something is left, oldest first."""
        return self._fetch(select(*_VALUES, *_TIMES).where(_CANARIES.c.ended_s.is_(None)).order_by(_CANARIES.c.id))

    def get_last(self, name: str) -> Canary | None:
        """Get a model's last rollout; None if there was none."""
        of_name = select(*_VALUES, *_TIMES).where(_CANARIES.c.name == name)
        return next(iter(self._fetch(of_name.order_by(_CANARIES.c.id.desc()).limit(1))), None)

    def get(self, canary_id: int) -> Canary | None:
        """Get a rollout by its id."""
        return next(iter(self._fetch(select(*_VALUES, *_TIMES).where(_CANARIES.c.id == canary_id))), None)

    def request(self, canary_id: int, requested: Literal["promote", "abort"], actor: Actor) -> None:
        """Ask the controller for something, in somebody's name."""
        with self._change() as transaction:
            canary = self._require(transaction.connection, canary_id)
            canary_audit.record_requested(transaction, canary, requested, actor)
            _update(transaction.connection, canary_id, requested=requested)

    def write_state(self, canary_id: int, state: CanaryState) -> None:
        """Write how far a rollout is."""
        self._write(canary_id, state, {})

    def write_progress(self, canary_id: int, state: CanaryState, comparison: dict[str, Any]) -> None:
        """Write both at once: a step that has passed must not be read with the evidence that it passed with."""
        self._write(canary_id, state, {"comparison": comparison})

    def read_comparison(self, canary_id: int) -> dict[str, Any] | None:
        """Read the state of the sequential tests; None before the first was written."""
        with self._engine.connect() as connection:
            query = select(_CANARIES.c.comparison).where(_CANARIES.c.id == canary_id)
            comparison: dict[str, Any] | None = connection.execute(query).scalar()
        return comparison

    def end(self, canary_id: int) -> None:
        """Note that nothing of a rollout shall be left."""
        with self._change() as transaction:
            canary_audit.record_ended(transaction, self._require(transaction.connection, canary_id))
            _update(transaction.connection, canary_id, ended_s=time.time())

    def _write(self, canary_id: int, state: CanaryState, more: dict[str, Any]) -> None:
        """Write a state; a phase that ends or begins is a change, and progress within one is none."""
        values = {"state": state.model_dump_json()} | more
        with self._engine.connect() as connection:
            is_change = self._require(connection, canary_id).state.phase != state.phase
        if not is_change:
            with self._engine.begin() as connection:
                _update(connection, canary_id, **values)
            return
        with self._change() as transaction:
            canary = self._require(transaction.connection, canary_id)
            canary_audit.record_phase(transaction, canary, state)
            _update(transaction.connection, canary_id, **values)

    def _change(self) -> AbstractContextManager[AuditTransaction]:
        if self._audit is None:
            raise RuntimeError("changes are recorded: open the store with an audit log, as CanaryStore.open does")
        return self._audit.transaction()

    def _require(self, connection: Connection, canary_id: int) -> Canary:
        query = select(*_VALUES, *_TIMES).where(_CANARIES.c.id == canary_id)
        canary = next(_parse(connection.execute(query)), None)
        assert canary is not None, "rollouts are not deleted"
        return canary

    def _fetch(self, query: Select[Any]) -> list[Canary]:
        with self._engine.connect() as connection:
            return list(_parse(connection.execute(query)))


def _update(connection: Connection, canary_id: int, **values: Any) -> None:
    connection.execute(update(_CANARIES).where(_CANARIES.c.id == canary_id).values(**values))


def _parse(rows: Iterable[Any]) -> Iterator[Canary]:
    for row in rows:
        # What another version of Shoal wrote hides no other rollout.
        with contextlib.suppress(ValidationError):
            yield Canary(
                id=row.id,
                spec=CanarySpec.model_validate_json(row.spec),
                state=CanaryState.model_validate_json(row.state),
                requested=row.requested,
                started_s=row.started_s,
                ended_s=row.ended_s,
            )
