"""The house rules that a machine can see."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "deployments", "cluster")
FILES = sorted(p for package in (*PACKAGES, "tests") for p in (ROOT / package).rglob("*.py"))
OURS = [p for p in FILES if p.relative_to(ROOT).parts[0] in PACKAGES]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_does_one_job(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
    assert path.stem not in ("utils", "common", "helpers", "misc")


@pytest.mark.parametrize("path", OURS, ids=name)
def test_a_file_says_its_job(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_pickles(path: Path) -> None:
    assert not imported(ast.parse(path.read_text())) & {"pickle", "cloudpickle", "dill", "joblib"}
    if path in OURS:
        assert "torch.load(" not in path.read_text()
        assert "torch.save(" not in path.read_text()


def test_the_top_level_holds_what_the_design_says() -> None:
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".egg-info"}

    assert found == {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "cluster.yaml",
        *PACKAGES,
        "tests",
    }
