import subprocess
import sys

import pytest
from pydantic import BaseModel

from training.recipe.load import import_path, list_builtin_recipes, load_recipe

HEAVY_PACKAGES = ("torch", "ray", "numpy", "pandas", "mlflow", "PIL")

IMPORT_ALL = f"""
import importlib, pkgutil, sys
import training.zoo.recipes as package

modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
for name in modules:
    assert importlib.import_module(f"training.zoo.recipes.{{name}}").recipe
print(len(modules), *(name for name in {HEAVY_PACKAGES} if name in sys.modules))
"""


def python_paths(model: BaseModel) -> list[str]:
    """Every `source` of a recipe: of its data, net, loss and augmentation."""
    values = [getattr(model, name) for name in type(model).model_fields]
    paths = [path for value in values if isinstance(value, BaseModel) for path in python_paths(value)]
    source = getattr(model, "source", None)
    return [*paths, source] if isinstance(source, str) else paths


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_every_python_path_of_a_ready_recipe_can_be_imported(name: str) -> None:
    paths = python_paths(load_recipe(name))

    assert len(paths) >= 2
    for path in paths:
        assert callable(import_path(path)), path


def test_importing_every_ready_recipe_imports_no_heavy_package() -> None:
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)

    assert result.stderr == ""
    assert result.stdout.split() == [str(len(list_builtin_recipes()))]


def test_a_ready_recipe_has_the_name_of_its_file() -> None:
    assert [load_recipe(name).name for name in list_builtin_recipes()] == list_builtin_recipes()
