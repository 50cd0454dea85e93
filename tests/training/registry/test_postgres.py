"""Several processes open an empty PostgreSQL database, or publish in it, at the same time; nothing is lost."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.postgres import connect, run_postgres
from tests.small_bundles import rewrite_manifest, save_table
from training.registry.model_registry import Registry
from training.settings import TrainingSettings

OPEN = """
from deployments.state.store import DeploymentStore
from training.registry.mlflow_store import MlflowStore
from training.settings import TrainingSettings
settings = TrainingSettings()
MlflowStore(settings)
DeploymentStore(settings.registry)
"""

PUBLISH = """
import sys
from pathlib import Path
from training.registry.model_registry import Registry
from training.settings import TrainingSettings
print(Registry(TrainingSettings()).publish(Path(sys.argv[1])))
"""

HOLD_LOCK = """
import time
from training.registry.opening import lock_store
from training.settings import TrainingSettings
with lock_store(TrainingSettings().registry, "publish"):
    print("locked", flush=True)
    time.sleep(600)
"""


class Database:
    """An empty database of a real server, as several processes' registry."""

    def __init__(self, server: str, name: str, home: Path) -> None:
        self._server, self._name = server, name
        with connect(server) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        self.settings = TrainingSettings(home=home, registry_uri=f"postgresql://shoal@/{name}?host={server}")

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self._server, self._name) as connection:
            return connection.execute(statement.encode()).fetchall()

    def start(self, script: str, *arguments: object) -> "subprocess.Popen[str]":
        settings = {"SHOAL_HOME": str(self.settings.home), "SHOAL_REGISTRY_URI": self.settings.registry_uri}
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_postgres() as folder:
        yield folder


NUMBERS = itertools.count()


@pytest.fixture
def database(server: str, tmp_path: Path) -> Database:
    return Database(server, f"registry_{next(NUMBERS)}", tmp_path / "home")


def save_bundles(folder: Path, count: int) -> list[Path]:
    """Save different bundles of one model."""
    folders = [folder / f"bundle{number}" for number in range(count)]
    for number, bundle in enumerate(folders):
        save_table(bundle, "same")
        # Seconds of their creation may be the same.
        rewrite_manifest(bundle, summary=f"number {number}")
    return folders


def test_stores_that_are_opened_at_once_make_the_tables_of_an_empty_database_once(database: Database) -> None:
    processes = [database.start(OPEN) for _ in range(3)]

    results = [process.communicate(timeout=240) for process in processes]

    assert [process.returncode for process in processes] == [0] * 3, results
    assert database.query("SELECT count(*) FROM alembic_version") == [(1,)]
    assert database.query("SELECT count(*) FROM experiments WHERE name = 'shoal'") == [(1,)]
    assert database.query("SELECT count(*) FROM deployments") == [(0,)]
    assert Registry(database.settings).list_models() == []


def test_what_is_published_at_once_in_an_empty_database_is_all_there_and_once(
    database: Database, tmp_path: Path
) -> None:
    first, *others = save_bundles(tmp_path, 3)

    processes = [database.start(PUBLISH, bundle) for bundle in (first, first, first, *others)]
    results = [process.communicate(timeout=240) for process in processes]

    assert sorted(process.returncode for process in processes) == [0, 0, 0, 1, 1], results
    assert sorted(stdout.strip() for stdout, _ in results) == ["", "", "same:1", "same:2", "same:3"]
    assert sum("AlreadyPublished" in stderr for _, stderr in results) == 2
    registry = Registry(database.settings)
    versions = registry.list_versions("same")
    assert [version.aliases for version in versions] == [(), (), ("champion",)]
    assert {registry.load_manifest(version).summary for version in versions} == {f"number {n}" for n in range(3)}
    assert database.query("SELECT status FROM runs") == [("FINISHED",)] * 3
    assert database.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_a_process_that_is_killed_while_it_publishes_blocks_no_other(database: Database, tmp_path: Path) -> None:
    (bundle,) = save_bundles(tmp_path, 1)
    holder = database.start(HOLD_LOCK)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    publisher = database.start(PUBLISH, bundle)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    assert wait_until(lambda: database.query(waiting) == [(1,)], 60)

    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=20)

    assert publisher.communicate(timeout=60)[0] == "same:1\n"
