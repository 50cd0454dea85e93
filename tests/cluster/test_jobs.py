"""A job's command line."""

from pathlib import Path

import pytest

from cluster.jobs import build_command
from training.recipe.load import load_recipe
from training.recipe.spec import Files
from training.run.options import RunOptions


def test_a_job_reads_the_files_that_the_recipe_names_where_it_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("iris").model_copy(update={"data": Files(path="rows.csv", format="csv", target="y")})

    command = build_command("r.py", recipe, ["stop.epochs=1"], RunOptions(profile=True), None)

    expected = ["r.py", "--set", "stop.epochs=1", "--set", f"data.path={tmp_path / 'rows.csv'}", "--profile"]
    assert command[3:] == expected


def test_a_resumed_run_keeps_its_recipe() -> None:
    assert build_command("iris", load_recipe("iris"), [], RunOptions(), "iris-1")[3:] == ["iris", "--resume", "iris-1"]
