"""What the README says is run: its code, its commands, its links."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cluster.cli.app import app
from training.bundle.load import load_bundle

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_a_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^shoal .*$", README, re.MULTILINE))))
def test_a_command_exists_with_its_options(line: str) -> None:
    words = shlex.split(line, comments=True)
    command = VERBS[words[1]]
    if hasattr(command, "commands") and len(words) > 2 and words[2] in command.commands:
        command = command.commands[words[2]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_verb_is_in_the_table_of_commands() -> None:
    for verb in VERBS:
        assert f"`shoal {verb}" in README, verb


@pytest.mark.parametrize("code", blocks("python"))
def test_what_is_imported_exists(code: str) -> None:
    exec("\n".join(re.findall(r"^(?:from|import) .*$", code, re.MULTILINE)), {})


def test_bringing_your_own_model_works_as_printed(tmp_path: Path) -> None:
    (code,) = [block for block in blocks("python") if "About(" in block]
    (tmp_path / "mine.py").write_text(code)
    assert len(code.strip().splitlines()) <= 15

    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    load_bundle(tmp_path / "my-bundle")


def test_a_recipe_of_your_own_is_valid_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.recipe.load import load_recipe
    from training.run.preflight import run_preflight

    (code,) = [block for block in blocks("python") if "recipe = Recipe" in block]
    (tmp_path / "my_recipe.py").write_text(code)
    monkeypatch.setattr("sys.path", list(sys.path))

    recipe = load_recipe(str(tmp_path / "my_recipe.py"))
    run_preflight(recipe)

    assert recipe.name == "points"


def test_the_pipelines_are_valid_as_printed(tmp_path: Path) -> None:
    from deployments.specs import pipeline_files

    (yaml,) = [block for block in blocks("yaml") if "root:" in block]
    (code,) = [block for block in blocks("python") if "pipeline = Pipeline" in block]
    (tmp_path / "triage.yaml").write_text(yaml)
    (tmp_path / "own.py").write_text(code)

    assert pipeline_files.load_pipeline(tmp_path / "triage.yaml").list_models()[0] == "sentiment-transformer"
    assert pipeline_files.load_pipeline(tmp_path / "own.py").list_models() == ("digits-detect", "digits-cnn")


def test_the_makefile_has_the_targets_that_are_named() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z]+)", README)) <= targets
    assert {"demo", "test"} <= targets


def test_no_placeholder_was_left() -> None:
    assert not re.findall(r"^[A-Z_]{6,}$", README, re.MULTILINE)
