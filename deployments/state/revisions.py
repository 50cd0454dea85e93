"""Revisions: the record of every change of a deployment: what was asked for, by whom, when, why, and what came of it.

Deploy walk: cluster.rollout.deploy -> store.py -> [revisions.py]
A change is what one command does at once: a model, and the pipelines that call it. Each name that it changes gets a
revision of its own, whose numbers increase by one per name.
"""

import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Column, Connection, Float, Integer, MetaData, Select, String, Table, Text, func, select, update

from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment
from training.errors import UserError

METADATA = MetaData()

# Both models are strict, so a record is valid as one of them only.
RECORD: TypeAdapter[DeploymentRecord] = TypeAdapter(PipelineDeployment | ModelDeployment)

Action = Literal["deploy", "apply", "scale", "undeploy", "rollback", "refresh"]
"""refresh: a pipeline got the new signature of a model that it calls."""

Outcome = Literal["in_progress", "succeeded", "failed", "superseded", "interrupted"]
"""superseded: another change of the name began before this one had ended."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

REVISIONS = Table(
    "revisions",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("change", Integer, nullable=False, index=True),
    Column("action", String(20), nullable=False),
    Column("spec", Text),
    Column("previous_spec", Text),
    Column("restores", Integer),
    Column("author", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("owner", String(255), nullable=False),
    Column("started_s", Float, nullable=False),
    Column("declared_s", Float),
    Column("ended_s", Float),
    Column("outcome", String(20), nullable=False, index=True),
    Column("message", Text, nullable=False),
)


@dataclass(frozen=True)
class Origin:
    """Who makes a change, and why.

    Attributes:
        author: `user@host` of a command line, or the name of an API key's caller.
        reason: as the author gave it.
        owner: the process that brings the change about, as training.registry.process_identity writes it, so that others
            can tell when it was killed; empty where no process does, as for what the cluster itself drives.
        source: where the author acts from, for the audit log alone.
    """

    author: str
    reason: str = ""
    owner: str = ""
    source: str = ""


@dataclass(frozen=True)
class Revision:
    """One change of one name.

    Attributes:
        name: of the model or pipeline.
        number: 1 for the first change of this name.
        change: the same for all revisions that were begun together.
        action: what was asked for.
        spec: the deployment that was asked for, as JSON; None for none.
        previous_spec: what ran before, and runs again where the change fails.
        restores: number of the revision that a rollback deployed again.
        author: see Origin.
        reason: see Origin.
        owner: see Origin.
        started_s: seconds since the epoch.
        declared_s: when Ray Serve was told; None before.
        ended_s: None while it goes on.
        outcome: what came of it.
        message: why it failed, or what there is to say.
    """

    name: str
    number: int
    change: int
    action: Action
    spec: str | None
    previous_spec: str | None
    restores: int | None
    author: str
    reason: str
    owner: str
    started_s: float
    declared_s: float | None
    ended_s: float | None
    outcome: Outcome
    message: str

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.outcome == "in_progress"

    def parse_spec(self) -> DeploymentRecord | None:
        """The deployment that was asked for; None for none.

        Raises:
            UserError: another version of Shoal wrote it.
        """
        return None if self.spec is None else parse_record(f"revision {self.number} of {self.name}", self.spec)


@functools.lru_cache(maxsize=1024)
def parse_record(what: str, spec: str) -> DeploymentRecord:
    """Read a deployment's JSON; the directory reads all of them several times a second, and they rarely change.

    Raises:
        UserError: another version of Shoal wrote it.
    """
    try:
        return RECORD.validate_json(spec)
    except ValidationError as error:
        raise UserError(
            f"{what} was deployed by another version of Shoal ({error.error_count()} fields differ)"
        ) from error


def insert_revisions(
    connection: Connection,
    specs: Mapping[str, tuple[str | None, str | None]],
    actions: Mapping[str, Action],
    origin: Origin,
    restores: int | None = None,
) -> int:
    """Insert the revisions of one change; those of the same names that were open are superseded.

    Args:
        connection: in a transaction.
        specs: the JSON of what ran before and of what shall run, by name; None for nothing.
        actions: what was asked for, by name.
        origin: who changes it, and why.
        restores: number of the revision that the change's rollback deploys again.

    Returns:
        The change's number.
    """
    change = (connection.execute(select(func.max(REVISIONS.c.change))).scalar() or 0) + 1
    now = time.time()
    for name, (previous_spec, spec) in specs.items():
        of_name = REVISIONS.c.name == name
        number = (connection.execute(select(func.max(REVISIONS.c.number)).where(of_name)).scalar() or 0) + 1
        open_revision = of_name & _IS_OPEN
        superseded = connection.execute(select(REVISIONS.c.previous_spec).where(open_revision)).first()
        message = f"revision {number} began before this one had ended"
        connection.execute(
            update(REVISIONS).where(open_revision).values(outcome="superseded", ended_s=now, message=message)
        )
        values = {
            "name": name,
            "number": number,
            "change": change,
            "action": actions[name],
            "spec": spec,
            # What was superseded never ran for sure.
            "previous_spec": superseded.previous_spec if superseded else previous_spec,
            "restores": restores if actions[name] == "rollback" else None,
            "author": origin.author,
            "reason": origin.reason,
            "owner": origin.owner,
            "started_s": now,
            "outcome": "in_progress",
            "message": "",
        }
        connection.execute(REVISIONS.insert().values(values))
    return change


def mark_declared(connection: Connection, change: int) -> None:
    """Note that Ray Serve has been told of a change."""
    connection.execute(update(REVISIONS).where(REVISIONS.c.change == change).values(declared_s=time.time()))


def end_revisions(connection: Connection, change: int, outcome: Outcome, message: str) -> dict[str, str | None]:
    """End the revisions of a change that are open; returns what ran before, by name."""
    is_open = (REVISIONS.c.change == change) & _IS_OPEN
    rows = connection.execute(select(REVISIONS.c.name, REVISIONS.c.previous_spec).where(is_open)).all()
    connection.execute(update(REVISIONS).where(is_open).values(outcome=outcome, message=message, ended_s=time.time()))
    return {row.name: row.previous_spec for row in rows}


def select_revisions(connection: Connection, name: str) -> list[Revision]:
    """All revisions of a name, newest first."""
    return _fetch(connection, select(REVISIONS).where(REVISIONS.c.name == name).order_by(REVISIONS.c.number.desc()))


def select_change(connection: Connection, change: int) -> list[Revision]:
    """All revisions of a change, by name."""
    return _fetch(connection, select(REVISIONS).where(REVISIONS.c.change == change).order_by(REVISIONS.c.name))


def select_open(connection: Connection) -> list[Revision]:
    """All revisions that go on, oldest first."""
    return _fetch(connection, select(REVISIONS).where(_IS_OPEN).order_by(REVISIONS.c.change, REVISIONS.c.name))


def select_current(connection: Connection) -> list[Revision]:
    """The last revision of each name that goes on or succeeded."""
    numbers = select(REVISIONS.c.name, func.max(REVISIONS.c.number).label("number"))
    last = numbers.where(REVISIONS.c.outcome.in_(("in_progress", "succeeded"))).group_by(REVISIONS.c.name).subquery()
    return _fetch(
        connection,
        select(REVISIONS).join(last, (REVISIONS.c.name == last.c.name) & (REVISIONS.c.number == last.c.number)),
    )


_IS_OPEN = REVISIONS.c.outcome == "in_progress"


def _fetch(connection: Connection, query: Select[Any]) -> list[Revision]:
    rows: Iterable[Any] = connection.execute(query).mappings()
    return [Revision(**row) for row in rows]
