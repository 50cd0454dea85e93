"""House rules that a test can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "deployments", "cluster")
FILES = sorted(p for package in (*PACKAGES, "tests") for p in (ROOT / package).rglob("*.py"))
PACKAGE_FILES = [p for p in FILES if p.relative_to(ROOT).parts[0] in PACKAGES]


def format_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


def list_imports(tree: ast.AST) -> set[str]:
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("path", FILES, ids=format_path)
def test_a_file_follows_the_house_rules(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)

    assert path.stem not in ("utils", "common", "helpers", "misc")
    assert text.count("\n") <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
    assert not list_imports(tree) & {"pickle", "cloudpickle", "dill", "joblib"}
    if path in PACKAGE_FILES:
        assert ast.get_docstring(tree)
        assert "torch.load(" not in text
        assert "torch.save(" not in text


def test_the_repository_root_has_no_other_files() -> None:
    names = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".egg-info"}
    names.discard("build")  # of `make audit`

    assert names == {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "Makefile",
        "cluster.yaml",
        *PACKAGES,
        "tests",
    }
