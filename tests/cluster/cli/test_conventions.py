"""Conventions of command lines: help, version, JSON, tables that cut nothing."""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from cluster.cli.app import app
from tests.cluster.cli.conftest import shoal_in_process
from tests.conftest import Shoal, save_table

ROOT_COMMAND: Any = typer.main.get_command(app)


def all_commands() -> dict[str, Any]:
    commands = {"": ROOT_COMMAND}
    for name, command in ROOT_COMMAND.commands.items():
        commands[name] = command
        for inner, each in getattr(command, "commands", {}).items():
            commands[f"{name} {inner}"] = each
    return commands


@pytest.fixture(scope="module")
def shoal(tmp_path_factory: pytest.TempPathFactory) -> Shoal:
    """A SHOAL_HOME with one model of two versions and no cluster."""
    folder = tmp_path_factory.mktemp("conventions")
    shoal = shoal_in_process(folder / "home")
    for number in (1, 2):
        save_table(folder / f"table-{number}", name="a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x")
        done = shoal("models", "import", str(folder / f"table-{number}"))
        assert done.returncode == 0, done.stderr
    return shoal


@pytest.mark.parametrize("name", all_commands())
def test_help_is_never_cut(name: str) -> None:
    command = all_commands()[name]
    context = command.make_context("shoal", [], resilient_parsing=True, terminal_width=80, max_content_width=80)

    # Dots that are meant: of a usage line, and of a list in JSON.
    assert "..." not in command.get_help(context).replace("]...", "").replace("[...]", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_a_short_and_a_long_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.cli.app import run

    assert run(["models", "list", option]) == 0
    assert "List all models." in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.cli.app import run

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"shoal {version('shoal')}\n"


def test_shells_can_complete_the_command() -> None:
    options = {option for parameter in ROOT_COMMAND.params for option in parameter.opts}

    assert {"--install-completion", "--show-completion"} <= options


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_no_identifier_is_cut_at_any_width_nor_in_a_pipe(shoal: Shoal, columns: str) -> None:
    listed = shoal("models", env={"COLUMNS": columns}).stdout

    assert "a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x" in listed
    assert "tabular-classification" in listed
    shown = shoal(
        "models", "show", "a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x", env={"COLUMNS": columns}
    )
    assert re.search(r"^2 +[0-9a-f]{12}  [0-9a-f]{32}$", shown.stdout, re.MULTILINE)


def test_list_stands_for_the_bare_verb(shoal: Shoal) -> None:
    for verb in ("models", "runs", "recipes"):
        assert shoal(verb, "list").stdout == shoal(verb).stdout


@pytest.mark.parametrize(
    "line",
    [
        "models --json",
        "models list --json",
        "models show {model} --json",
        "runs --json",
        "runs list --json",
        "recipes --json",
        "recipes show iris --json",
        "recipes show iris --schema",
        "settings --json",
        "status --json",
    ],
)
def test_what_is_shown_can_be_had_as_json(shoal: Shoal, line: str) -> None:
    model = "a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x"

    done = shoal(*line.format(model=model).split(), env={"COLUMNS": "40"})

    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def test_quiet_prints_results_only(shoal: Shoal, tmp_path: Path) -> None:
    save_table(tmp_path / "table", name="quiet")

    done = shoal("--quiet", "models", "import", str(tmp_path / "table"))

    assert done.stdout == "published quiet:1\n"


def test_an_import_ends_with_the_next_command(shoal: Shoal, tmp_path: Path) -> None:
    save_table(tmp_path / "table", name="spoken")

    done = shoal("models", "import", str(tmp_path / "table"))

    assert done.stdout == "published spoken:1\nnext: shoal deploy spoken:1\n"


def test_recipes_show_explains_every_key_that_set_takes(shoal: Shoal) -> None:
    keys = {each["key"]: each for each in json.loads(shoal("recipes", "show", "iris", "--json").stdout)}

    assert keys["optimizer.lr"]["type"] == "number, > 0"
    assert keys["clean.missing"]["type"] == "refuse | drop | mean"
    assert {
        "data.seed",
        "data.path",
        "data.target",
        "stop.epochs",
        "net.args",
        "checkpoints.num_to_keep",
    } <= keys.keys()
    assert all(each["description"] for each in keys.values())
