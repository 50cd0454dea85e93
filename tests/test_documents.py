"""README, guides and CONTRIBUTING are correct: links, files, commands, options, imports, recipes and pipelines."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cluster.cli.app import app
from tests.documents import (
    DOCUMENTS,
    ROOT,
    Block,
    list_all_blocks,
    list_blocks,
    list_commands,
    list_links,
    list_paths,
    read_document,
)

SHOAL = typer.main.get_command(app)
SCRIPTS = list_all_blocks("python")
FILES = [block for block in list_all_blocks("python", "yaml") if block.title]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_target_of_a_link_exists(document: str) -> None:
    for link in list_links(document):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_file_that_a_document_names_exists(document: str) -> None:
    for path in list_paths(document):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("document", "line"), [(d, line) for d in DOCUMENTS for line in list_commands(d)])
def test_a_command_exists_with_its_options(document: str, line: str) -> None:
    words = iter(shlex.split(line, comments=True)[1:])
    command: Any = SHOAL
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            assert name in options or name in ("-h", "--help"), name
        elif hasattr(command, "commands") and word in command.commands:
            command = command.commands[word]
            options |= {option for parameter in command.params for option in parameter.opts}
        elif hasattr(command, "commands") and not command.invoke_without_command:
            # A word in capitals is a placeholder.
            assert word.isupper() or not word.isalpha() or "=" in word, f"no command {word!r}"


def test_every_command_is_in_the_table_of_commands() -> None:
    for command in SHOAL.commands:  # type: ignore[attr-defined]
        assert f"`shoal {command}" in read_document("README.md"), command


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_scripts_imports_exist(block: Block) -> None:
    printed_modules = {str(file.title).partition(".")[0] for file in FILES}
    imports = [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    imports = [node for node in imports if getattr(node, "module", None) not in printed_modules]
    assert imports, "a script without imports uses nothing of Shoal's"
    namespace: dict[str, Any] = {}
    for node in imports:
        exec(ast.unparse(node), namespace)

    names = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
    assert names <= namespace.keys()


def test_the_readme_is_short() -> None:
    assert read_document("README.md").count("\n") < 220


def test_bringing_your_own_model_works_as_printed(tmp_path: Path) -> None:
    from training.bundle.load import load_bundle

    (block,) = [block for block in list_blocks("README.md") if "save_bundle(" in block.text]
    (tmp_path / "save.py").write_text(block.text)
    assert len(block.text.strip().splitlines()) <= 15

    result = subprocess.run([sys.executable, "save.py"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    load_bundle(tmp_path / "my-bundle")


@pytest.mark.parametrize("block", [block for block in FILES if "recipe = Recipe" in block.text], ids=str)
def test_a_recipe_is_valid_as_printed(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.recipe.load import load_recipe
    from training.run.preflight import run_preflight

    for file in list_blocks(block.document):
        if file.title:
            (tmp_path / file.title).write_text(file.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))

    recipe = load_recipe(str(tmp_path / str(block.title)))
    if not recipe.is_streamed:
        run_preflight(recipe)

    assert recipe.name in read_document(block.document)


@pytest.mark.parametrize(
    "block", [block for block in FILES if "root:" in block.text or "pipeline = " in block.text], ids=str
)
def test_a_pipeline_is_valid_as_printed(block: Block, tmp_path: Path) -> None:
    from deployments.specs.pipeline_files import load_pipeline

    path = tmp_path / str(block.title)
    path.write_text(block.text)

    assert len(load_pipeline(path).list_models()) > 1


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_make_target_that_a_document_names_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = set(re.findall(r"(?:`|^)make ([a-z]+)", read_document(document), re.MULTILINE))

    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_setting_that_a_document_names_exists(document: str) -> None:
    from cluster.settings import Settings

    variables = {f"SHOAL_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bSHOAL_[A-Z][A-Z_]+[A-Z]\b", read_document(document)))

    assert {name.partition("__")[0] for name in named} <= variables


def test_documents_have_no_paths_of_this_machine() -> None:
    for document in DOCUMENTS:
        assert str(ROOT) not in read_document(document)
        assert f"{Path.home()}/" not in read_document(document)
