"""A local registry is read without MLflow, and reads the same with it."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_bundles import save_image, save_table
from training.registry.mlflow_store import MlflowStore
from training.registry.model_registry import Registry
from training.registry.sqlite_reader import SqliteReader
from training.settings import TrainingSettings


@pytest.fixture
def settings(tmp_path: Path) -> TrainingSettings:
    return TrainingSettings(home=tmp_path / "home")


@pytest.fixture
def store_file(settings: TrainingSettings) -> Path:
    return settings.home / "registry.db"


def fill(settings: TrainingSettings, table_bundle: Path, tmp_path: Path) -> None:
    """Runs of every status and versions of two models, one of which has had a version deleted."""
    registry = Registry(settings)
    registry.publish(table_bundle)
    for name in ("flowers", "images"):
        save_image(tmp_path / name, name=name)
        registry.publish(tmp_path / name)
    registry.promote("flowers", 2, "challenger")
    save_table(tmp_path / "deleted", name="images")
    registry.publish(tmp_path / "deleted")
    registry.delete_version("images", 2)
    for status in ("FINISHED", "FAILED", "KILLED"):
        run_id = registry.start_run(f"{status.lower()}-run", {"task": "tabular-regression"}, origin="iris")
        registry.log_metrics(run_id, {"loss": 2.0, "test_r2": 0.5}, step=1)
        registry.log_metrics(run_id, {"loss": 1.0, "validation_r2": float("nan")}, step=2)
        registry.end_run(run_id, status)
    registry.start_run("running-run", {})


def test_both_readers_return_the_same(registry_settings: TrainingSettings, table_bundle: Path, tmp_path: Path) -> None:
    settings = registry_settings
    fill(settings, table_bundle, tmp_path)
    store = MlflowStore(settings)
    reader = Registry(settings).reader

    assert isinstance(reader, SqliteReader)
    assert reader.list_versions() == store.list_versions()
    assert [str(version) for version in reader.list_versions()] == ["flowers:2", "flowers:1", "images:1"]
    assert reader.list_versions("flowers") == store.list_versions("flowers")
    assert reader.list_versions("it's") == store.list_versions("it's") == []
    # repr: NaN is not equal to itself.
    assert repr(reader.list_runs()) == repr(store.list_runs())
    for run_id in [version.run_id for version in reader.list_versions()] + [run.run_id for run in reader.list_runs()]:
        assert repr(reader.get_run(run_id)) == repr(store.get_run(run_id)) != "None"
    assert reader.get_run("0" * 32) is store.get_run("0" * 32) is None
    assert [run.name for run in reader.list_runs()] == ["running-run", "killed-run", "failed-run", "finished-run"]


def test_a_missing_store_holds_nothing_and_is_not_created(settings: TrainingSettings, store_file: Path) -> None:
    reader = Registry(settings).reader

    assert (reader.list_versions(), reader.list_runs()) == ([], [])
    assert not store_file.exists()


def test_the_installed_mlflow_has_the_schema_that_is_read(settings: TrainingSettings, store_file: Path) -> None:
    MlflowStore(settings)

    assert SqliteReader(store_file).is_supported(), "MLflow changed its schema: read it, then set SCHEMA_REVISION"


@pytest.mark.parametrize(
    "statement", ["UPDATE alembic_version SET version_num = 'other'", "DROP TABLE alembic_version"]
)
def test_a_store_of_another_schema_is_read_through_mlflow(
    registry_settings: TrainingSettings, store_file: Path, statement: str
) -> None:
    with sqlite3.connect(store_file) as connection:
        connection.execute(statement)

    assert not SqliteReader(store_file).is_supported()


def test_a_file_that_is_not_sqlite_is_not_supported(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("not a database" * 100)

    assert not SqliteReader(tmp_path / "registry.db").is_supported()


def test_listing_models_and_runs_imports_neither_mlflow_nor_torch(
    registry_settings: TrainingSettings, table_bundle: Path
) -> None:
    settings = registry_settings
    Registry(settings).publish(table_bundle)
    code = f"""
import sys
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory
from training.settings import TrainingSettings

registry = Registry(TrainingSettings(home={str(settings.home)!r}))
(version,) = registry.list_versions("flowers")
assert registry.read_manifest(version).name == "flowers"
assert RunHistory(registry).list_runs() == []
print(sorted({{"mlflow", "numpy", "pandas", "pyarrow", "ray", "torch"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (result.stdout, result.stderr) == ("[]\n", "")
