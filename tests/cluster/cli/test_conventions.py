"""Conventions of command lines: help, version, JSON, tables without truncation."""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from cluster.cli import terminal
from cluster.cli.app import app
from tests.cluster.cli.conftest import make_in_process_cli
from tests.conftest import ShoalCli
from tests.small_bundles import save_table

ROOT_COMMAND: Any = typer.main.get_command(app)


def list_commands() -> dict[str, Any]:
    commands = {"": ROOT_COMMAND}
    for name, command in ROOT_COMMAND.commands.items():
        commands[name] = command
        for subcommand_name, subcommand in getattr(command, "commands", {}).items():
            commands[f"{name} {subcommand_name}"] = subcommand
    return commands


@pytest.fixture(scope="module")
def shoal(tmp_path_factory: pytest.TempPathFactory) -> ShoalCli:
    """A SHOAL_HOME with one model of two versions and no cluster."""
    folder = tmp_path_factory.mktemp("conventions")
    shoal = make_in_process_cli(folder / "home")
    for number in (1, 2):
        save_table(folder / f"table-{number}", name="a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x")
        result = shoal("models", "import", str(folder / f"table-{number}"))
        assert result.returncode == 0, result.stderr
    return shoal


@pytest.mark.parametrize("name", list_commands())
def test_help_is_never_truncated(name: str) -> None:
    command = list_commands()[name]
    context = command.make_context("shoal", [], resilient_parsing=True, terminal_width=80, max_content_width=80)

    # Usage lines and lists in JSON have dots of their own.
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
def test_no_identifier_is_truncated_at_any_width_nor_in_a_pipe(shoal: ShoalCli, columns: str) -> None:
    listed = shoal("models", env={"COLUMNS": columns}).stdout

    assert "a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x" in listed
    assert "tabular-classification" in listed
    shown = shoal(
        "models", "show", "a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x", env={"COLUMNS": columns}
    )
    assert re.search(r"^2 +[0-9a-f]{12}  [0-9a-f]{32}$", shown.stdout, re.MULTILINE)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_table_in_a_terminal_has_every_column_and_cuts_no_cell(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal_console = Console(width=columns, force_terminal=True, no_color=True, file=sys.stdout)
    monkeypatch.setattr(terminal, "console", terminal_console)
    table = terminal.make_table("model", "aliases", "meaning", wrapped=("meaning",))
    table.add_row("my-model", "5=2, staging=2, champion=1", "What is said about it, " * 8)

    terminal.print_table(table)

    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "5=2, staging=2, champion=1" in printed
    assert "meaning" in printed


def test_the_keys_of_a_recipe_fit_a_terminal_of_80_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.cli import recipes

    terminal_console = Console(width=80, force_terminal=True, no_color=True, file=sys.stdout, soft_wrap=True)
    monkeypatch.setattr(terminal, "console", terminal_console)

    recipes.show("digits-cnn")

    table = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split("\n\n", 1)[1]
    assert max(map(len, table.splitlines())) <= 80
    assert "optimizer.lr " in table
    assert re.search(r"Share of all rows,\s+held out .*\(number,", " ".join(table.split()))


def test_list_stands_for_the_bare_verb(shoal: ShoalCli) -> None:
    for command in ("models", "runs", "recipes"):
        assert shoal(command, "list").stdout == shoal(command).stdout


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
def test_every_listing_can_be_printed_as_json(shoal: ShoalCli, line: str) -> None:
    model = "a-model-whose-name-is-as-long-as-names-in-a-registry-may-be-63x"

    result = shoal(*line.format(model=model).split(), env={"COLUMNS": "40"})

    assert result.returncode == 0, result.stderr
    json.loads(result.stdout)


def test_quiet_prints_results_only(shoal: ShoalCli, tmp_path: Path) -> None:
    save_table(tmp_path / "table", name="quiet")

    result = shoal("--quiet", "models", "import", str(tmp_path / "table"))

    assert result.stdout == "published quiet:1\n"


def test_an_import_ends_with_the_next_command(shoal: ShoalCli, tmp_path: Path) -> None:
    save_table(tmp_path / "table", name="imported")

    result = shoal("models", "import", str(tmp_path / "table"))

    assert result.stdout == "published imported:1\nnext: shoal deploy imported:1\n"


def test_recipes_show_explains_every_key_that_set_takes(shoal: ShoalCli) -> None:
    keys = {key["key"]: key for key in json.loads(shoal("recipes", "show", "iris", "--json").stdout)}

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
    assert all(key["description"] for key in keys.values())


def test_a_card_names_the_files_of_its_plots(tmp_path: Path) -> None:
    cli = make_in_process_cli(tmp_path / "home")
    save_table(tmp_path / "table", name="plotted", images={"loss.png": b"PNG", "confusion.png": b"PNG"})
    cli("models", "import", str(tmp_path / "table"))

    assert ", with the plots confusion.png, loss.png" in cli("models", "show", "plotted").stdout
