"""Deployment store: the desired state in a database, so that a cluster comes back as it was.

Deploy walk: cluster.rollout.deploy -> [store.py] -> revisions.py, revision_audit.py
What shall run is written with a revision, before anything is told to Ray Serve: a crash at any moment leaves what was
asked for, and what ran before.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from sqlalchemy import Column, Connection, Float, String, Table, Text, create_engine, delete, select

from deployments.access.audit.event import Actor
from deployments.access.audit.log import AuditLog, AuditTransaction
from deployments.settings import ServingSettings
from deployments.specs.deployment import DeploymentRecord
from deployments.specs.model_deployment import ModelDeployment
from deployments.state import revision_audit, revisions
from deployments.state.migration import migrate_rollouts
from deployments.state.revisions import METADATA, Action, Origin, Outcome, Revision, parse_record
from training.errors import UserError
from training.registry.opening import check_database, lock_store

_DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("updated_s", Float, nullable=False),
)


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

    def __init__(self, uri: str, audit: AuditLog | None = None) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
            audit: log of the changes, in the same database; None for reading alone.

        Raises:
            UserError: the database cannot be opened.
        """
        self._audit = audit
        check_database(uri, "SHOAL_PLATFORM_URI")
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            METADATA.create_all(self._engine)
            migrate_rollouts(self._engine)

    @classmethod
    def open(cls, settings: ServingSettings) -> "DeploymentStore":
        """Open the database of these settings for changes, with their audit log."""
        return cls(settings.platform, AuditLog.open(settings))

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
                    records.append(parse_record(name, spec))
                except UserError as error:
                    unreadable[name] = f"{error}; `shoal undeploy {name}`, then deploy it again"
        return Deployments(records, unreadable)

    def get_settled_record(self, name: str) -> DeploymentRecord | None:
        """Get what a name ran before the change that goes on, or else what is deployed; None if nothing readable is."""
        before = [revision for revision in self.list_open_revisions() if revision.name == name]
        if not before:
            return self.get_record(name)
        spec = before[0].previous_spec
        try:
            return None if spec is None else parse_record(name, spec)
        except UserError:
            return None

    def put_record(self, deployment: DeploymentRecord) -> None:
        """Write a deployment without a revision; it replaces that of the same name."""
        with self._engine.begin() as connection:
            _write_spec(connection, deployment.name, deployment.model_dump_json())

    def delete_record(self, name: str) -> None:
        """Delete a deployment without a revision."""
        with self._engine.begin() as connection:
            _write_spec(connection, name, None)

    def begin_change(
        self,
        changes: Mapping[str, DeploymentRecord | None],
        action: Action,
        origin: Origin,
        *,
        restores: int | None = None,
    ) -> int:
        """Write what shall run, and a revision for each name, all at once; open changes of the names are superseded.

        Args:
            changes: what shall be deployed, by name; None for what shall not be any more. The last one is what was
                asked for; those before it are pipelines that call it.
            action: what was asked for.
            origin: who asked, and why.
            restores: number of the revision that a rollback deploys again.

        Returns:
            The change's number.
        """
        asked = list(changes)[-1]
        with self._change() as transaction:
            connection = transaction.connection
            specs: dict[str, tuple[str | None, str | None]] = {}
            for name, record in changes.items():
                query = select(_DEPLOYMENTS.c.spec).where(_DEPLOYMENTS.c.name == name)
                spec = None if record is None else record.model_dump_json()
                specs[name] = (connection.execute(query).scalar(), spec)
                _write_spec(connection, name, spec)
            actions: dict[str, Action] = {name: action if name == asked else "refresh" for name in changes}
            if action == "deploy" and _is_scaling(specs[asked][0], changes[asked]):
                actions[asked] = "scale"
            revision_audit.record_superseded(transaction, changes)
            change = revisions.insert_revisions(connection, specs, actions, origin, restores)
            revision_audit.record_begun(transaction, change, origin)
        return change

    def mark_declared(self, change: int) -> None:
        """Note that Ray Serve has been told of a change."""
        with self._engine.begin() as connection:
            revisions.mark_declared(connection, change)

    def end_change(
        self, change: int, outcome: Outcome, message: str = "", *, restore: bool = False, actor: Actor | None = None
    ) -> list[str]:
        """End a change; nothing where it has ended, or others have superseded it.

        Args:
            change: its number.
            outcome: what came of it.
            message: why it failed, or what there is to say.
            restore: whether what ran before shall run again.
            actor: who ends it; None for whoever began it.

        Returns:
            The names that it changed.
        """
        with self._change() as transaction:
            connection = transaction.connection
            revision_audit.record_ended(transaction, change, outcome, message, actor)
            previous_specs = revisions.end_revisions(connection, change, outcome, message)
            if restore:
                for name, previous_spec in previous_specs.items():
                    _write_spec(connection, name, previous_spec)
        return list(previous_specs)

    def _change(self) -> AbstractContextManager[AuditTransaction]:
        if self._audit is None:
            raise RuntimeError("changes are recorded: open the store with an audit log, as DeploymentStore.open does")
        return self._audit.transaction()

    def list_revisions(self, name: str) -> list[Revision]:
        """List the revisions of a name, newest first."""
        with self._engine.connect() as connection:
            return revisions.select_revisions(connection, name)

    def list_open_revisions(self) -> list[Revision]:
        """List the revisions of all changes that go on, oldest first; or their command was killed."""
        with self._engine.connect() as connection:
            return revisions.select_open(connection)

    def get_current_revisions(self) -> dict[str, Revision]:
        """Get the revision of each name that is in force: the last one that goes on or succeeded."""
        with self._engine.connect() as connection:
            return {revision.name: revision for revision in revisions.select_current(connection)}


def _is_scaling(previous_spec: str | None, record: DeploymentRecord | None) -> bool:
    """Whether a deployment differs from the one before in its scale only."""
    if previous_spec is None or not isinstance(record, ModelDeployment):
        return False
    try:
        before = parse_record(record.name, previous_spec)
    except UserError:
        return False
    return before.endpoint == record.endpoint and before.scale != record.scale


def _write_spec(connection: Connection, name: str, spec: str | None) -> None:
    connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == name))
    if spec is not None:
        connection.execute(_DEPLOYMENTS.insert().values(name=name, spec=spec, updated_s=time.time()))
