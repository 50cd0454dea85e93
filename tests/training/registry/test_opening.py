"""Several processes open a new store, or publish in an old one, and nothing is lost; wrong URIs are refused."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import UserError
from training.registry.mlflow_store import MlflowStore
from training.registry.model_registry import Registry
from training.registry.opening import check_database
from training.settings import TrainingSettings

PUBLISH = """
import sys
from pathlib import Path
from training.registry.model_registry import Registry
from training.settings import TrainingSettings
print(Registry(TrainingSettings(home=Path(sys.argv[1]))).publish(Path(sys.argv[2])))
"""


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Two different bundles of one model."""
    from tests.small_bundles import rewrite_manifest, save_table

    folders = [tmp_path / f"bundle{i}" for i in range(2)]
    for i, folder in enumerate(folders):
        save_table(folder, "same")
        # Seconds of their creation may be the same.
        (folder / "README.md").write_text(f"card {i}")
        rewrite_manifest(folder)
    return folders


def test_what_is_published_at_once_in_a_new_store_is_all_there_and_once(tmp_path: Path, bundles: list[Path]) -> None:
    settings = TrainingSettings(home=tmp_path / "home")
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(settings.home), str(bundle)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for bundle in [bundles[0], bundles[0], bundles[1]]
    ]
    results = [command.communicate(timeout=120) for command in commands]

    assert sorted(command.returncode for command in commands) == [0, 0, 1], results
    assert sorted(filter(None, (stdout.strip() for stdout, _ in results))) == ["same:1", "same:2"]
    assert sum("AlreadyPublished" in stderr for _, stderr in results) == 1
    versions = Registry(settings).list_versions("same")
    assert len({version.digest for version in versions}) == 2
    assert [version.aliases for version in versions] == [(), ("champion",)]
    with sqlite3.connect(settings.home / "registry.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 2


def test_a_store_whose_making_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    settings = TrainingSettings(home=tmp_path / "home")
    settings.home.mkdir()
    (settings.home / "registry.db.new").write_bytes(b"half of a database")

    MlflowStore(settings)

    assert not (settings.home / "registry.db.new").exists()
    assert Registry(settings).list_models() == []


WRONG_URIS = {
    "a driver that is not installed": (
        "mysql+pymysql://u:hunter2@127.0.0.1/x",
        "needs the driver pymysql, which is not installed; install pymysql",
    ),
    "PostgreSQL's driver that is not Shoal's": (
        "postgresql+pg8000://u:hunter2@127.0.0.1/x",
        r"needs the driver pg8000, which .*; run `pip install 'psycopg\[binary\]'`, and let the URI begin with postgresql://",
    ),
    "a server that does not run": (
        "postgresql://u:hunter2@127.0.0.1:9/x",
        "Connection refused.*; start its server, or correct SHOAL_REGISTRY_URI",
    ),
    "a folder": ("sqlite:////tmp/", "unable to open database file; name another file in SHOAL_REGISTRY_URI"),
    "a file of another kind": (f"sqlite:///{__file__}", "not a database; name another file in SHOAL_REGISTRY_URI"),
    "a folder that cannot be made": (f"sqlite:///{__file__}/x/registry.db", "Not a directory.*; name another file"),
    "MLflow's store of files": ("file:///tmp/mlruns", "is no database's URI; write sqlite:///.* or postgresql://"),
    "no URI": ("nonsense", "is no database's URI; write sqlite:///"),
    "a port that is no number": ("postgresql://u:hunter2@:x/y", "is no database's URI; write sqlite:///"),
}


@pytest.mark.parametrize("case", WRONG_URIS)
def test_a_registry_that_cannot_be_opened_is_one_line_with_the_remedy(
    tmp_path: Path, table_bundle: Path, case: str
) -> None:
    uri, message = WRONG_URIS[case]
    registry = Registry(TrainingSettings(home=tmp_path, registry_uri=uri))

    with pytest.raises(UserError, match=message) as caught:
        registry.publish(table_bundle)

    assert "(SHOAL_REGISTRY_URI)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_without_its_driver_a_postgresql_uri_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed

    with pytest.raises(UserError, match=r"needs the driver psycopg, .* run `pip install 'psycopg\[binary\]'`"):
        check_database("postgresql://u@127.0.0.1:9/x", "SHOAL_REGISTRY_URI")


def test_a_server_of_mlflow_that_does_not_answer_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry(TrainingSettings(home=tmp_path, registry_uri="http://127.0.0.1:9"))

    with pytest.raises(UserError, match=r"cannot be opened: .*refused.*; start its server, or correct SHOAL_REGISTRY"):
        registry.list_models()
