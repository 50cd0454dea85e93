"""Load: a recipe is found by name among the zoo's or in a user's file, and overridden key by key."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.errors import UserError, summarize_validation_error
from training.recipe.spec import Recipe


def import_path(path: str) -> Callable[..., Any]:
    """Import what a Python path names.

    Raises:
        Mistake: there is no such module, or no such name in it.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path!r} names nothing that can be imported ({error}); write it as module:name") from error
    if not callable(found):
        raise UserError(f"{path!r} is a {type(found).__name__}; name a class or a function")
    return found  # type: ignore[no-any-return]


def list_builtin_recipes() -> list[str]:
    """Names of the recipes that come with Shoal."""
    folder = Path(__file__).parents[1] / "zoo" / "recipes"
    return sorted(p.stem.replace("_", "-") for p in folder.glob("*.py") if p.stem != "__init__")


def load_recipe(name: str) -> Recipe:
    """Find a ready recipe by name, or a user's own by the path of a Python file that binds `recipe`.

    The folder of a user's file goes on sys.path, so that its net and data import under the file's own name here and,
    because `run.train` sends the folder along, on every worker.

    Raises:
        Mistake: no such recipe or file, or it does not hold a valid Recipe.
    """
    if name in list_builtin_recipes():
        module_name = f"training.zoo.recipes.{name.replace('-', '_')}"
    elif name.endswith(".py"):
        file = Path(name).resolve()
        if not file.is_file():
            raise UserError(f"no recipe file {name!r}; give the path of a Python file that binds `recipe`")
        module_name = file.stem
        hidden = importlib.util.find_spec(module_name) if module_name.isidentifier() else None
        if not module_name.isidentifier() or (hidden and Path(hidden.origin or "").resolve() != file):
            raise UserError(f"a recipe file cannot be called {file.name!r}: that is no free module name; rename it")
        sys.path.insert(0, str(file.parent))
    else:
        raise UserError(
            f"no recipe {name!r}; ready ones: {', '.join(list_builtin_recipes())}; or give a path to a .py file"
        )
    try:
        module = importlib.import_module(module_name)
    except ValidationError as error:
        raise UserError(f"{name}: {summarize_validation_error(error)}") from error
    except Exception as error:
        raise UserError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    recipe = getattr(module, "recipe", None)
    if recipe is None:
        raise UserError(f"{name} binds no `recipe`; add `recipe = Recipe(...)`")
    if not isinstance(recipe, Recipe):
        raise UserError(f"`recipe` in {name} is a {type(recipe).__name__}; make it a training.recipe.Recipe")
    return recipe


def override_recipe(recipe: Recipe, overrides: list[str]) -> Recipe:
    """Apply `key.inner=value` overrides; values are JSON where they parse as JSON, text otherwise.

    Raises:
        Mistake: no such key (the message lists those there are), or a value that the recipe's rules refuse.
    """
    raw = recipe.model_dump()
    for setting in overrides:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting!r} has no value; write key=value, as in optimiser.lr=0.001")
        *parents, last = path.split(".")
        at = raw
        free = False  # inside an `args` mapping any key may be new
        for key in parents:
            free = key == "args"
            if not isinstance(at.get(key), dict):
                raise UserError(f"--set {path}: no key {key!r}; {_list_keys(at, key)}")
            at = at[key]
        if last not in at and not free:
            raise UserError(f"--set {path}: no key {last!r}; {_list_keys(at, last)}")
        at[last] = _parse_value(text)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"--set: {summarize_validation_error(error)}") from error


def _list_keys(at: dict[str, Any], key: str) -> str:
    named = [k + ("." if isinstance(v, dict) else "") for k, v in at.items()]
    return f"{key!r} holds one value" if key in at else f"valid here: {', '.join(named)}"


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
