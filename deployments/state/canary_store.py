"""Canary store: the rollouts that compare a new version with the one that serves, and the evidence of each.

Rollout walk: cluster.rollout.canary -> [canary_store.py] -> deployments.rollout.controller
The command writes `spec` and `requested`, the controller `state` and `evidence`, so that neither overwrites the other.
"""

import contextlib
import time
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import (
    JSON,
    Column,
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

from deployments.rollout.canary import Canary, CanarySpec, CanaryState
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

    def __init__(self, uri: str) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
        """
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    def begin(self, spec: CanarySpec) -> Canary:
        """Begin a rollout.

        Raises:
            UserError: one of this model goes on.
        """
        self.reject_if_active(spec.name)
        values = {"name": spec.name, "spec": spec.model_dump_json(), "state": CanaryState().model_dump_json()}
        with self._engine.begin() as connection:
            connection.execute(insert(_CANARIES).values(**values, requested="", started_s=time.time()))
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

    def request(self, canary_id: int, requested: Literal["promote", "abort"]) -> None:
        """Ask the controller for something."""
        self._update(canary_id, requested=requested)

    def write_state(self, canary_id: int, state: CanaryState) -> None:
        """Write how far a rollout is."""
        self._update(canary_id, state=state.model_dump_json())

    def write_progress(self, canary_id: int, state: CanaryState, comparison: dict[str, Any]) -> None:
        """Write both at once: a step that has passed must not be read with the evidence that it passed with."""
        self._update(canary_id, state=state.model_dump_json(), comparison=comparison)

    def read_comparison(self, canary_id: int) -> dict[str, Any] | None:
        """Read the state of the sequential tests; None before the first was written."""
        with self._engine.connect() as connection:
            query = select(_CANARIES.c.comparison).where(_CANARIES.c.id == canary_id)
            comparison: dict[str, Any] | None = connection.execute(query).scalar()
        return comparison

    def end(self, canary_id: int) -> None:
        """Note that nothing of a rollout shall be left."""
        self._update(canary_id, ended_s=time.time())

    def _update(self, canary_id: int, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(_CANARIES).where(_CANARIES.c.id == canary_id).values(**values))

    def _fetch(self, query: Select[Any]) -> list[Canary]:
        canaries = []
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                # What another version of Shoal wrote hides no other rollout.
                with contextlib.suppress(ValidationError):
                    canaries.append(
                        Canary(
                            id=row.id,
                            spec=CanarySpec.model_validate_json(row.spec),
                            state=CanaryState.model_validate_json(row.state),
                            requested=row.requested,
                            started_s=row.started_s,
                            ended_s=row.ended_s,
                        )
                    )
        return canaries
