"""Which deployments there shall be, noted in a database, so that a cluster comes back as it was."""

import time
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine, delete, select

from deployments.specs.model import Deployment
from deployments.specs.record import DeploymentRecord, PipelineDeployment

_METADATA = MetaData()
_DEPLOYMENTS = Table(
    "deployments",
    _METADATA,
    Column("name", String(63), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("changed_s", Float, nullable=False),
)

# Both are closed: what is noted is one of them, and never the other.
_NOTED: TypeAdapter[DeploymentRecord] = TypeAdapter(PipelineDeployment | Deployment)


class DeploymentStore:
    """The table of deployments, models' and pipelines', in SQLite or PostgreSQL."""

    def __init__(self, uri: str) -> None:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(uri)
        _METADATA.create_all(self._engine)

    def list_records(self) -> list[DeploymentRecord]:
        """All deployments, by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_DEPLOYMENTS.c.spec).order_by(_DEPLOYMENTS.c.name))
            return [_NOTED.validate_json(spec) for (spec,) in rows]

    def get_record(self, name: str) -> DeploymentRecord | None:
        """One deployment, or None."""
        return next((d for d in self.list_records() if d.name == name), None)

    def put_record(self, deployment: DeploymentRecord) -> None:
        """Note a deployment, in place of what its name had."""
        with self._engine.begin() as connection:
            connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == deployment.name))
            connection.execute(
                _DEPLOYMENTS.insert().values(
                    name=deployment.name, spec=deployment.model_dump_json(), changed_s=time.time()
                )
            )

    def delete_record(self, name: str) -> None:
        """Forget a deployment."""
        with self._engine.begin() as connection:
            connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == name))
