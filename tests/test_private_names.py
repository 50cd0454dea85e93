"""Private names of other libraries are used in `*_internals.py` only, and each such file is of one version."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "deployments", "training")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
INTERNALS = [path for path in FILES if path.stem.endswith("_internals")]
DISTRIBUTIONS = packages_distributions()
# Whose private names are our own, or Python's, which changes them by a release that we choose.
KNOWN = {*PACKAGES, *sys.stdlib_module_names, "__future__"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def find_private_names(tree: ast.AST) -> list[str]:
    """Dotted names of other libraries with a private part: in imports, and in what hangs on an imported name."""
    found = []
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            local = [alias.asname or alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            local = [alias.asname or alias.name for alias in node.names]
        else:
            continue
        for dotted, name in zip(names, local, strict=True):
            if dotted.split(".")[0] in KNOWN:
                continue
            imported.add(name)
            if any(map(is_private, dotted.split("."))):
                found.append(dotted)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.AST = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in imported:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "path", [path for path in FILES if path not in INTERNALS], ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_private_name_of_another_library_is_used(path: Path) -> None:
    assert find_private_names(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", INTERNALS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_of_private_names_is_of_the_installed_version(path: Path) -> None:
    library = path.stem.removesuffix("_internals")
    (distribution,) = set(DISTRIBUTIONS[library])
    read = re.findall(rf"\b{distribution} (\d+\.\d+\.\d+)", path.read_text(), re.IGNORECASE)

    assert read, f"say in which version of {distribution} the names were read"
    assert set(read) == {version(distribution).partition("+")[0]}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import ray\nray._private.worker", ["ray._private"]),
        ("from ray.serve._private import replica", ["ray.serve._private.replica"]),
        ("import torch._dynamo", ["torch._dynamo"]),
        ("from torch import nn\nnn.Module._parameters", ["nn.Module._parameters"]),
        ("import ray\nray.__version__\nself._x\nimport os\nos._exit", []),
    ],
)
def test_private_names_are_found(code: str, names: list[str]) -> None:
    assert find_private_names(ast.parse(code)) == names
