"""What a recipe imports travels, whatever way its packages are made."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.recipe_code import collect_code
from training.recipe.load import load_recipe

RECIPE = """
{top}
import torch
from torch import nn
from training import Data, Dataset, Net, Recipe, TableInput

def points():
    {inner}
    return Dataset(inputs=torch.zeros(3, 1), targets=torch.zeros(3), input_schema=TableInput(features=("x",)))

def layer():
    return nn.Linear(1, 1)

recipe = Recipe(name="points", task="tabular-regression", data=Data(source=points), net=Net(source=layer))
"""


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path: Path) -> Iterator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if str(tmp_path) in str(vars(sys.modules[name]).get("__path__", getattr(sys.modules[name], "__file__", ""))):
            del sys.modules[name]


@pytest.mark.parametrize("top", [True, False], ids=["at its top", "in a function"])
@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("from shelf.helper import x", {"shelf/helper.py": "x = 1"}),
        (
            "import shelf.inner.helper",
            {"shelf/inner/helper.py": "from shelf.other import y", "shelf/other.py": "y = 1"},
        ),
        ("from shelf import helper", {"shelf/helper.py": "from . import other", "shelf/other.py": ""}),
        (
            "import pack.inner.deep",
            {"pack/__init__.py": "", "pack/inner/deep.py": "from ..a import x", "pack/a.py": "x = 1"},
        ),
    ],
    ids=["a folder", "folders in folders", "a relative import", "a folder in a package"],
)
def test_a_folder_without_init_is_a_package_too(
    tmp_path: Path, statement: str, files: dict[str, str], top: bool
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    recipe_file = tmp_path / "recipe.py"
    recipe_file.write_text(RECIPE.format(top=statement if top else "", inner="pass" if top else statement))

    code = collect_code(load_recipe(str(recipe_file)), str(recipe_file))

    assert code is not None
    assert {str(file) for file in code.files} == {"recipe.py", *files}
    assert code.left_behind == ()
