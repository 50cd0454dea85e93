"""The walks in module headers and in README are true: each file exists, and adjacent files know each other.

A header may have lines `Train walk: a -> [this.py] -> b` (also Deploy, Rollout, Request, Predict, Usage), in which

- `[name.py]` or `[name.py: what]` is the file itself, and `name.py` another file of its folder; one that is not Python
  (HAProxy's template) is known to the modules of its folder that name it;
- `package.module` is any other file, as a path from the repository root; a package stands for any of its modules;
- `package.module name` names a function in it;
- alternatives are joined by ", " or " or ";
- HAProxy and caller are outside of the code.

In a package's `__init__.py`, paths are relative to the package and brackets are not needed. Two files know each other
if one imports the other, or if a third imports both and so can hand one to the other.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import pytest

from tests.documents import ROOT, read_document

PACKAGES = ("cluster", "deployments", "training")
MODULES = frozenset(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FILES = MODULES | {path for package in PACKAGES for path in (ROOT / package).rglob("*.j2")}
OUTSIDE = {"HAProxy", "caller"}

# A line that begins with an arrow continues the walk.
_WALK = re.compile(r"^\w+ walk: .*(?:\n +-> .*)*", re.MULTILINE)
_README_WALK = re.compile(r"^- \*\*\w+\*\*: .*(?:\n  .*)*", re.MULTILINE)
_LINK = re.compile(r"\[`?([^\]`]+)`?\]\(([^)]+)\)")
_MODULE_NAME = re.compile(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+")

Stop = frozenset[Path]
"""The files that a name in a walk stands for: one, or a package's; none if it is outside of the code."""


@dataclass(frozen=True)
class Walk:
    """One walk in the header of a file; `stops` are the alternatives of each stop, as written."""

    path: Path
    name: str
    stops: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}, {self.name}"

    @property
    def is_of_package(self) -> bool:
        return self.path.name == "__init__.py"


def list_walks() -> list[Walk]:
    walks = []
    for path in sorted(MODULES):
        for match in _WALK.finditer(ast.get_docstring(ast.parse(path.read_text())) or ""):
            name, _, stops = match[0].partition(": ")
            walks.append(Walk(path, name, tuple(_split_alternatives(stop) for stop in re.split(r"\s+-> ", stops))))
    return walks


def _split_alternatives(stop: str) -> tuple[str, ...]:
    return (stop,) if stop.startswith("[") else tuple(re.split(r", | or ", stop))


def find_stop(walk: Walk, name: str) -> Stop:
    """Return the files that a name in a walk stands for."""
    if name in OUTSIDE:
        return frozenset()
    if name.startswith("["):
        own_name = name.removeprefix("[").removesuffix("]").partition(": ")[0]
        assert own_name == walk.path.name, f"{name} is in brackets, but is not this file"
        return frozenset({walk.path})
    module, _, function = name.partition(" ")
    if module.endswith((".py", ".j2")):
        path = walk.path.parent / module
        assert path in FILES, f"{module} is not in this folder"
    else:
        path = (walk.path.parent if walk.is_of_package else ROOT) / module.replace(".", "/")
        assert walk.is_of_package or path.parent != walk.path.parent, f"write {path.name}.py for {module}"
    stop = find_modules(path)
    assert stop, f"no module {module}"
    assert not function or function in {name for file in stop for name in list_functions(file)}, f"no function {name}"
    return stop


def find_modules(path: Path) -> Stop:
    """Return the files of a package, or the file of a module, whose path may lack `.py`."""
    if path in FILES:
        return frozenset({path})
    if path.is_dir():
        return frozenset(file for file in FILES if file.is_relative_to(path))
    return FILES & {path.with_suffix(".py")}


def list_functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def know_each_other(first: Stop, second: Stop) -> bool:
    if not first or not second:
        return True
    if any(list_imports(file) & second for file in first) or any(list_imports(file) & first for file in second):
        return True
    # An __init__ imports what it exports, and hands nothing over.
    modules = (file for file in MODULES if file.name != "__init__.py")
    return any(list_imports(file) & first and list_imports(file) & second for file in modules)


@cache
def list_imports(path: Path) -> Stop:
    """Return the files that a module imports anywhere, or names in a string: 'training.worker.loop', `python -m`."""
    if path not in MODULES:
        return frozenset()
    files: set[Path] = set()
    tree = ast.parse(path.read_text())
    docstrings = list_docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            files |= {file for alias in node.names for file in _find_imported(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            exports = list_exports(node.module)
            files |= _find_imported(node.module)
            for alias in node.names:
                files |= _find_imported(f"{node.module}.{alias.name}")
                files |= _find_imported(exports[alias.name]) if alias.name in exports else set()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            files |= {file for file in FILES - MODULES if file.parent == path.parent and file.name == node.value}
            for name in _MODULE_NAME.findall(node.value):
                files |= _find_imported(name) | (FILES & {ROOT / name.replace(".", "/") / "__main__.py"})
    return frozenset(files - {path})


@cache
def list_exports(package: str) -> dict[str, str]:
    """Return the names that a package's `__init__.py` imports, and the module of each."""
    path = ROOT / package.replace(".", "/") / "__init__.py"
    if path not in FILES:
        return {}
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports if node.module for alias in node.names}


def _find_imported(module: str) -> Stop:
    path = ROOT / module.replace(".", "/")
    return FILES & {path.with_suffix(".py"), path / "__init__.py"}


def list_docstrings(tree: ast.AST) -> set[ast.expr]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    return {node.body[0].value for node in nodes if node.body and isinstance(node.body[0], ast.Expr)}


WALKS = list_walks()


@pytest.mark.parametrize("walk", WALKS, ids=str)
def test_a_walk_names_files_that_exist_and_know_each_other(walk: Walk) -> None:
    assert walk.name in ("Train walk", "Deploy walk", "Rollout walk", "Request walk", "Predict walk", "Usage walk")
    stops = [[(name, find_stop(walk, name)) for name in alternatives] for alternatives in walk.stops]

    assert walk.is_of_package or any(name.startswith("[") for names in walk.stops for name in names)
    for alternatives, next_alternatives in pairwise(stops):
        for (name, stop), (next_name, next_stop) in product(alternatives, next_alternatives):
            assert know_each_other(stop, next_stop), f"nothing imports both of {name} -> {next_name}"


def find_link(text: str, target: str) -> Stop:
    """Return the files that a link of README stands for: one, or a folder's where the text names a folder."""
    path = ROOT / target
    assert path in FILES, f"no file {target}"
    if path not in MODULES:
        return frozenset()  # HAProxy's own
    stop = find_modules(ROOT / text if text.endswith("/") else path)
    assert path in stop, f"{target} is not in {text}"
    return stop


@pytest.mark.parametrize("walk", _README_WALK.findall(read_document("README.md")), ids=lambda walk: walk.split("*")[2])
def test_a_walk_in_readme_links_files_that_exist_and_know_each_other(walk: str) -> None:
    arrows, _, sentences = walk.partition(". ")
    stops = [[(target, find_link(text, target)) for text, target in _LINK.findall(stop)] for stop in arrows.split("→")]
    assert all(find_link(text, target) for text, target in _LINK.findall(sentences))

    for links in stops:
        for (target, stop), (other_target, other_stop) in pairwise(links):
            assert know_each_other(stop, other_stop), f"nothing imports both of {target}, {other_target}"
    for links, next_links in pairwise(stops):
        # What follows the first link of a stop, as "with" or in parentheses, are parts of it.
        for (target, stop), (next_target, next_stop) in product(links[:1], next_links[:1]):
            assert know_each_other(stop, next_stop), f"nothing imports both of {target} → {next_target}"
