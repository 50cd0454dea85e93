"""Keys and Python names of earlier versions are refused with the new ones."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import training
from training.bundle.manifest import ModelInfo
from training.errors import UserError, summarize_validation_error
from training.recipe.load import import_path, load_recipe, override_recipe
from training.recipe.renamed import RENAMED_MODULES, RENAMED_NAMES
from training.recipe.spec import CheckpointPolicy, Files, Recipe, TokenizerConfig
from training.schema import (
    Feature,
    ImageOutput,
    InputSchema,
    SeriesInput,
    SpanOutput,
    StrictModel,
    TableInput,
    TextInput,
)

MODELS_WITH_RENAMED_KEYS: list[type[StrictModel]] = [
    CheckpointPolicy,
    Feature,
    Files,
    ImageOutput,
    ModelInfo,
    Recipe,
    SeriesInput,
    SpanOutput,
    TableInput,
    TextInput,
    TokenizerConfig,
]


@pytest.mark.parametrize(
    ("model", "old", "new"),
    [(model, old, new) for model in MODELS_WITH_RENAMED_KEYS for old, new in model.renamed_keys.items()],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_old_key_is_refused_with_the_new_one(model: type[StrictModel], old: str, new: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({old: 1})

    assert summarize_validation_error(caught.value) == f"{old!r} is called {new!r} now"
    assert new in model.model_fields


def test_an_old_key_of_an_inner_model_is_refused_with_its_location() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter[InputSchema](InputSchema).validate_json('{"kind": "series", "features": ["a"], "max_steps": 3}')

    assert summarize_validation_error(caught.value) == "series: 'max_steps' is called 'max_time_steps' now"


def test_a_model_without_renamed_keys_has_no_validator_for_them() -> None:
    class Plain(StrictModel):
        size: int

    assert Plain.__pydantic_core_schema__["type"] == "model"
    assert Recipe.__pydantic_core_schema__["type"] != "model"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.lr=1", "'optimiser' is called 'optimizer' now"),
        ("batch_rows=8", "'batch_rows' is called 'batch_size' now"),
        ("checkpoints.keep=1", "'keep' is called 'num_to_keep' now"),
    ],
)
def test_an_override_of_an_old_key_says_the_new_one(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override_recipe(load_recipe("iris"), [setting])


@pytest.fixture
def write_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a recipe file that can be imported, and forgets its module afterwards."""
    monkeypatch.setattr("sys.path", list(sys.path))
    file = tmp_path / "old_recipe_file.py"

    def write(content: str) -> str:
        file.write_text(content)
        return str(file)

    yield write
    sys.modules.pop(file.stem, None)


@pytest.mark.parametrize(
    ("content", "new_name"),
    [
        ("from training.recipe import Optimiser", "training.Optimizer"),
        ("from training.recipe import Recipe", "training.Recipe"),
        ("from training import Stop", "training.StopRule"),
        ("from training.words import TableWords", "training.schema"),
        ("import training.nets.cnn", "training.zoo.nets"),
        ("from training.datasets.digits import digits", "training.zoo.datasets"),
        ("from training import words", "training.schema"),
        ("import training.recipe\ntraining.recipe.Optimiser()", "training.Optimizer"),
        ("from training import Recipe\nOptimiser(name='SGD')", "training.Optimizer"),
        ("from training import Dataset\nDataset([1], words=None)", "input_schema"),
        ("from training import Dataset\nDataset([1], held_out=None)", "test_index"),
    ],
)
def test_a_recipe_file_with_an_old_python_name_is_one_line_that_ends_with_the_new_one(
    write_recipe: Callable[[str], str], content: str, new_name: str
) -> None:
    with pytest.raises(UserError, match=rf"is called '{new_name}' now$") as caught:
        load_recipe(write_recipe(content))

    assert "\n" not in str(caught.value)


def test_a_recipe_file_with_an_old_key_is_one_line_with_the_new_one(write_recipe: Callable[[str], str]) -> None:
    content = "from training import Recipe\nrecipe = Recipe(name='x', task='tabular-regression', optimiser=None)"

    with pytest.raises(UserError, match=r"old_recipe_file.py, line 2: 'optimiser' is called 'optimizer' now$"):
        load_recipe(write_recipe(content))


def test_an_old_python_path_is_refused_with_the_new_one() -> None:
    with pytest.raises(UserError, match=r"'training.nets' is called 'training.zoo.nets' now$"):
        import_path("training.nets.cnn:cnn")


def test_a_missing_name_that_was_never_renamed_has_no_hint(write_recipe: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="cannot be imported") as caught:
        load_recipe(write_recipe("import nothing_like_this"))

    assert "is called" not in str(caught.value)


def test_every_new_name_exists_and_no_old_one_does() -> None:
    for old, new in RENAMED_MODULES.items():
        importlib.import_module(new)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(old)
    for old, new in RENAMED_NAMES.items():
        module, _, name = new.rpartition(".")
        assert resolve(module, name) is not None, new
        module, _, name = old.rpartition(".")
        assert resolve(module, name) is None, old


def resolve(module: str, name: str) -> Any:
    """The value of a module's name; None if either is missing."""
    try:
        return getattr(training if module == "training" else importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None
