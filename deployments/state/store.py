"""Deployment store: the desired state in a database, so that a cluster comes back as it was.

Deploy walk: cluster.rollout.deploy -> [store.py]
"""

import functools
import time
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    func,
    select,
    update,
)

from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment
from training.registry.opening import check_database, lock_store

_METADATA = MetaData()
_DEPLOYMENTS = Table(
    "deployments",
    _METADATA,
    Column("name", String(63), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("updated_s", Float, nullable=False),
)

# Every change of a deployment; `outcome` is empty while it goes on.
_ROLLOUTS = Table(
    "rollouts",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("revision", Integer, nullable=False),
    Column("name", String(63), nullable=False),
    Column("previous_spec", Text),
    Column("spec", Text),
    Column("started_s", Float, nullable=False),
    Column("outcome", String(20), nullable=False),
)

# Both models are strict, so a record is valid as one of them only.
_RECORD: TypeAdapter[DeploymentRecord] = TypeAdapter(PipelineDeployment | ModelDeployment)


class Deployments(NamedTuple):
    """The rows of the table.

    Attributes:
        records: those that can be read, by name.
        unreadable: why, by name, of those that cannot, as those of another version of Shoal.
    """

    records: list[DeploymentRecord]
    unreadable: dict[str, str]


class DeploymentStore:
    """The table of deployments, of models and pipelines, in SQLite or PostgreSQL."""

    def __init__(self, uri: str) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.

        Raises:
            UserError: the database cannot be opened.
        """
        check_database(uri, "SHOAL_PLATFORM_URI")
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    def list_records(self) -> list[DeploymentRecord]:
        """List all deployments that can be read, by name."""
        return self.load().records

    def get_record(self, name: str) -> DeploymentRecord | None:
        """Get a deployment; None if there is none of this name, or it cannot be read."""
        return next((record for record in self.list_records() if record.name == name), None)

    def load(self) -> Deployments:
        """Read all rows; one that cannot be read must not hide the others."""
        records, unreadable = [], {}
        with self._engine.connect() as connection:
            rows = connection.execute(select(_DEPLOYMENTS.c.name, _DEPLOYMENTS.c.spec).order_by(_DEPLOYMENTS.c.name))
            for name, spec in rows:
                try:
                    records.append(_parse_record(spec))
                except ValidationError as error:
                    unreadable[name] = (
                        f"{name} was deployed by another version of Shoal ({error.error_count()} fields differ); "
                        f"`shoal undeploy {name}`, then deploy it again"
                    )
        return Deployments(records, unreadable)

    def put_record(self, deployment: DeploymentRecord) -> None:
        """Write a deployment; it replaces that of the same name."""
        with self._engine.begin() as connection:
            _write_spec(connection, deployment.name, deployment.model_dump_json())

    def delete_record(self, name: str) -> None:
        """Delete a deployment."""
        with self._engine.begin() as connection:
            _write_spec(connection, name, None)

    def begin_rollout(self, changes: Mapping[str, DeploymentRecord | None]) -> int:
        """Write what is wanted, and keep what there was until the rollout ends, all at once.

        Args:
            changes: what shall be deployed, by name; None for what shall not be any more.

        Returns:
            The rollout's revision, one more than that of the last.
        """
        with self._engine.begin() as connection:
            revision = (connection.execute(select(func.max(_ROLLOUTS.c.revision))).scalar() or 0) + 1
            for name, record in changes.items():
                previous = select(_DEPLOYMENTS.c.spec).where(_DEPLOYMENTS.c.name == name)
                spec = None if record is None else record.model_dump_json()
                connection.execute(
                    _ROLLOUTS.insert().values(
                        revision=revision,
                        name=name,
                        previous_spec=connection.execute(previous).scalar(),
                        spec=spec,
                        started_s=time.time(),
                        outcome="",
                    )
                )
                _write_spec(connection, name, spec)
        return revision

    def end_rollout(self, *, undo: bool) -> list[str]:
        """End the rollout that goes on, if one does; with `undo`, what there was before is wanted again.

        Returns:
            The names that it changed.
        """
        is_open = _ROLLOUTS.c.outcome == ""
        with self._engine.begin() as connection:
            rows = connection.execute(select(_ROLLOUTS.c.name, _ROLLOUTS.c.previous_spec).where(is_open)).all()
            if undo:
                for name, previous_spec in rows:
                    _write_spec(connection, name, previous_spec)
            outcome = "undone" if undo else "done"
            connection.execute(update(_ROLLOUTS).where(is_open).values(outcome=outcome))
        return [name for name, _ in rows]

    def find_open_rollout(self) -> list[str]:
        """The names that a rollout changes which has not ended; it goes on, or its command was killed."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(_ROLLOUTS.c.name).where(_ROLLOUTS.c.outcome == "")).scalars())


@functools.lru_cache(maxsize=1024)
def _parse_record(spec: str) -> DeploymentRecord:
    """Parse a row; the directory reads all of them several times a second, and they rarely change."""
    return _RECORD.validate_json(spec)


def _write_spec(connection: Connection, name: str, spec: str | None) -> None:
    connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == name))
    if spec is not None:
        connection.execute(_DEPLOYMENTS.insert().values(name=name, spec=spec, updated_s=time.time()))
