"""Load: finds a recipe by name in the zoo or in a user's file, and overrides its keys.

Train walk: cluster.train -> [load.py] -> spec.py
"""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from training import schema
from training.errors import ShoalError, UserError, suggest_key, summarize_validation_error
from training.recipe import spec
from training.recipe.fields import list_valid_keys
from training.recipe.renamed import renamed_hint
from training.recipe.spec import Recipe
from training.schema import StrictModel
from training.source_location import describe_error, locate_error


def import_path(path: str) -> Callable[..., Any]:
    """Import the class or function of a Python path, `package.module:name`.

    Raises:
        UserError: there is no such module, no such name in it, or it is not callable.
    """
    module, _, qualname = path.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for attribute in qualname.split("."):
            target = getattr(target, attribute)
    except Exception as error:
        if locate_error(error) or not isinstance(error, ImportError | AttributeError):
            raise UserError(f"{path!r} cannot be imported: {describe_error(error)}{renamed_hint(error)}") from error
        raise UserError(
            f"{path!r} names nothing that can be imported ({error}); write it as module:name{renamed_hint(error)}"
        ) from error
    if not callable(target):
        raise UserError(f"{path!r} is a {type(target).__name__}; name a class or a function")
    return target  # type: ignore[no-any-return]


def list_builtin_recipes() -> list[str]:
    """Names of the recipes of the zoo, sorted."""
    folder = Path(__file__).parents[1] / "zoo" / "recipes"
    return sorted(file.stem.replace("_", "-") for file in folder.glob("*.py") if file.stem != "__init__")


def load_recipe(name: str) -> Recipe:
    """Load a recipe of the zoo by name, or a user's by the path of a Python file that binds `recipe`.

    The folder of a user's file is added to sys.path, so that its net and data import under the file's own name in
    this process and, because `shoal train` sends the folder along, on every worker.

    Raises:
        UserError: no such recipe or file, or it does not hold a valid Recipe.
    """
    if name in list_builtin_recipes():
        module_name = f"training.zoo.recipes.{name.replace('-', '_')}"
    elif name.endswith(".py"):
        module_name = _add_to_import_path(name)
    else:
        raise UserError(
            f"no recipe {name!r}; those of the zoo: {', '.join(list_builtin_recipes())}; or give the path of a .py file"
        )
    try:
        module = importlib.import_module(module_name)
    except ValidationError as error:
        raise UserError(f"{locate_error(error) or name}: {_summarize_problems(error)}") from error
    except ShoalError as error:
        location = locate_error(error)
        raise UserError(f"{name}: {error}{location and f' ({location})'}") from error
    except Exception as error:
        raise UserError(f"{name} cannot be imported: {describe_error(error)}{renamed_hint(error)}") from error
    recipe = getattr(module, "recipe", None)
    if recipe is None:
        raise UserError(f"{name} binds no `recipe`; add `recipe = Recipe(...)`")
    if not isinstance(recipe, Recipe):
        raise UserError(f"`recipe` in {name} is a {type(recipe).__name__}; make it a training.Recipe")
    return recipe


def _add_to_import_path(name: str) -> str:
    """Add a recipe file's folder to sys.path; returns the name that the file imports under."""
    file = Path(name).resolve()
    if not file.is_file():
        raise UserError(f"no recipe file {name!r}; give the path of a Python file that binds `recipe`")
    existing = importlib.util.find_spec(file.stem) if file.stem.isidentifier() else None
    if not file.stem.isidentifier() or (existing and Path(existing.origin or "").resolve() != file):
        raise UserError(
            f"a recipe file cannot be called {file.name!r}: it is not a module name, or another module has it; "
            "rename it"
        )
    sys.path.insert(0, str(file.parent))
    return file.stem


def override_recipe(recipe: Recipe, overrides: list[str]) -> Recipe:
    """Apply `key.inner=value` overrides; a value is JSON where it parses as JSON, text otherwise.

    Raises:
        UserError: no such key (the message lists the valid ones), or a value that the recipe refuses.
    """
    values = recipe.model_dump()
    for setting in overrides:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting!r} has no value; write key=value, as in optimizer.lr=0.001")
        _set_key(recipe, values, path, _parse_value(text))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"--set: {summarize_validation_error(error, partial(list_valid_keys, Recipe))}") from error


def _set_key(recipe: Recipe, values: dict[str, Any], path: str, value: Any) -> None:
    """Set one dotted key of a dumped recipe in place."""
    *parents, last = path.split(".")
    model: Any = recipe
    mapping = values
    in_args = False  # an `args` mapping takes any key
    for key in parents:
        in_args = key == "args"
        if not isinstance(mapping.get(key), dict):
            raise UserError(f"--set {path}: no key {key!r}; {_key_hint(model, mapping, key)}")
        mapping = mapping[key]
        model = getattr(model, key) if isinstance(model, BaseModel) else None
    if last not in mapping and not in_args:
        raise UserError(f"--set {path}: no key {last!r}; {_key_hint(model, mapping, last)}")
    mapping[last] = value


def _key_hint(model: Any, mapping: dict[str, Any], key: str) -> str:
    """What to write instead of a key that is not in the mapping or holds no keys of its own."""
    if key in mapping:
        return f"{key!r} holds one value"
    new_key = model.renamed_keys.get(key) if isinstance(model, StrictModel) else None
    if new_key:
        return f"{key!r} is called {new_key!r} now"
    return suggest_key(key, [name + ("." if isinstance(value, dict) else "") for name, value in mapping.items()])


def _summarize_problems(error: ValidationError) -> str:
    """Summarize why a part of a recipe is refused, as the same mistake in `--set` is."""
    classes = (*vars(spec).values(), *vars(schema).values())
    models = {each.__name__: each for each in classes if isinstance(each, type) and issubclass(each, StrictModel)}
    model = models.get(error.title)
    summary = summarize_validation_error(error, partial(list_valid_keys, model) if model else None)
    return summary if model in (None, Recipe) else f"{error.title}: {summary}"


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
