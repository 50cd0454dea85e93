"""An audit log in each kind of database."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from deployments.access.audit.chain import Verification
from deployments.access.audit.key import AuditSigner, PublicKeys
from deployments.access.audit.log import HEAD_FILE, AuditLog, read_head
from deployments.access.audit.reader import AuditReader
from tests.postgres import connect, run_postgres


@dataclass(frozen=True)
class Database:
    """A database that others may alter, and the SHOAL_HOME with the key and the kept head."""

    uri: str
    home: Path

    def open_log(self) -> AuditLog:
        return AuditLog(self.uri, AuditSigner.open(self.home), self.home / HEAD_FILE)

    def open_engine(self) -> Engine:
        """As somebody has it who knows the database, and no more."""
        return create_engine(self.uri)

    def verify(self) -> Verification:
        head = read_head(self.home / HEAD_FILE)
        keys = PublicKeys.load(self.home / "secrets" / "audit_key.pub")
        return AuditReader(self.uri).verify(keys, [head] if head else [])

    def list_problems(self) -> list[tuple[int, str]]:
        return [(problem.row, problem.message) for problem in self.verify().problems]


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[str]:
    with run_postgres() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path / 'platform.db'}", tmp_path)
    folder: str = request.getfixturevalue("postgres_folder")
    name = f"db_{abs(hash(str(tmp_path)))}"
    with connect(folder) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return Database(f"postgresql://shoal@/{name}?host={folder}", tmp_path)
