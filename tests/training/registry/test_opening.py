"""Several processes open a new store, or publish in an old one, at the same time; nothing is lost."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from training.registry.mlflow_store import MlflowStore
from training.registry.model_registry import Registry
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
