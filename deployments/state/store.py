"""Deployment store: the desired state in a database, so that a cluster comes back as it was.

Deploy walk: cluster.rollout.deploy -> [store.py]
"""

import time
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine, delete, select

from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment

_METADATA = MetaData()
_DEPLOYMENTS = Table(
    "deployments",
    _METADATA,
    Column("name", String(63), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("updated_s", Float, nullable=False),
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
        """
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
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
                    records.append(_RECORD.validate_json(spec))
                except ValidationError as error:
                    unreadable[name] = (
                        f"{name} was deployed by another version of Shoal ({error.error_count()} fields differ); "
                        f"`shoal undeploy {name}`, then deploy it again"
                    )
        return Deployments(records, unreadable)

    def put_record(self, deployment: DeploymentRecord) -> None:
        """Write a deployment; it replaces that of the same name."""
        with self._engine.begin() as connection:
            connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == deployment.name))
            connection.execute(
                _DEPLOYMENTS.insert().values(
                    name=deployment.name, spec=deployment.model_dump_json(), updated_s=time.time()
                )
            )

    def delete_record(self, name: str) -> None:
        """Delete a deployment."""
        with self._engine.begin() as connection:
            connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == name))
