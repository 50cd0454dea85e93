"""What `import training` offers, and what it and the light modules do not import."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import training

HEAVY = {"PIL", "matplotlib", "mlflow", "numpy", "pandas", "pyarrow", "ray", "torch"}
LIGHT = [
    "training",
    "training.bundle.card",
    "training.bundle.datatypes",
    "training.bundle.manifest",
    "training.bundle.verify",
    "training.errors",
    "training.recipe.load",
    "training.recipe.spec",
    "training.registry.model_registry",
    "training.registry.runs",
    "training.run.options",
    "training.schema",
    "training.settings",
]


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_every_exported_name_is_its_modules_own() -> None:
    for module, names in training._MODULES.items():
        for name in names:
            assert getattr(training, name) is getattr(importlib.import_module(module), name)


def test_the_three_lists_of_exported_names_agree() -> None:
    tree = ast.parse(Path(training.__file__).read_text())
    imported = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert imported == {(module, name) for module, names in training._MODULES.items() for name in names}
    assert sorted(name for _, name in imported) == sorted(training.__all__)
    assert set(training.__all__) <= set(dir(training))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'training' has no attribute 'Optimiser'"):
        training.Optimiser  # noqa: B018
