"""Fields: every field of a recipe that `--set` can override, with its type, bounds, default and description.

Derived from the Pydantic classes of spec.py, so that a new field is listed by itself.
"""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from training.errors import Location
from training.recipe.spec import Data, Files, Recipe
from training.schema import StrictModel

_BOUNDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}"}


class RecipeKey(StrictModel):
    """One key, as `--set` takes it.

    Attributes:
        key: dotted path, as `optimizer.lr`.
        value: in the recipe; the default where the recipe leaves out the model that has the key.
        default: None also where the key is required.
        type: in the words of JSON, with its bounds.
        description: of the field.
    """

    key: str
    value: JsonValue
    default: JsonValue
    type: str
    description: str


def list_keys(recipe: Recipe) -> list[RecipeKey]:
    """List every key of a recipe; where its rows come from a function, also the keys of rows in files."""
    values = recipe.model_dump(mode="json")
    keys = list(_walk(Recipe, values, ""))
    if isinstance(recipe.data, Data):
        data_keys = {key.key for key in keys}
        keys += [
            key.model_copy(update={"description": f"{key.description} Where `data` is Files.".lstrip()})
            for key in _walk(Files, {}, "data.")
            if key.key not in data_keys
        ]
    return keys


def list_valid_keys(model: type[BaseModel], location: Location) -> list[str]:
    """List the keys of the model at a location of another, as Pydantic's errors give it; none if it is not found."""
    models = [model]
    for part in location:
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        if fields:
            models = [each for field in fields for each in _list_models(field.annotation)]
        else:  # an index or a key, or the tag of one member of a union
            models = [each for each in models if part in _list_tags(each)] or models
    return list(dict.fromkeys(key for each in models for key in each.model_fields))


_TAGS: dict[type[BaseModel], str] = {Data: "rows", Files: "files"}
"""Tags of the union that Recipe.data is."""


def _list_tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return (_TAGS.get(model), kind.default if kind else None)


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value may be of, or the items of a list or a mapping."""
    models = []
    for member in _flatten(annotation):
        if get_origin(member) in (list, tuple, dict):
            models += [model for item in get_args(member) for model in _list_models(item)]
        elif isinstance(member, type) and issubclass(member, BaseModel):
            models.append(member)
    return models


def _walk(model: type[BaseModel], values: dict[str, Any], prefix: str) -> Iterator[RecipeKey]:
    for name, field in model.model_fields.items():
        value = values.get(name)
        inner = _inner_model(field, value)
        if inner is not None:
            yield from _walk(inner, value if isinstance(value, dict) else {}, f"{prefix}{name}.")
            continue
        default = None if field.default is PydanticUndefined else _to_json(field.default)
        yield RecipeKey(
            key=prefix + name,
            value=value if name in values else default,
            default=default,
            type=_describe_type(field),
            description=field.description or "",
        )


def _inner_model(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The model of a field's value, where it is one; of a union the model that has the value's keys."""
    models = [each for each in _flatten(field.annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    if len(models) > 1 and isinstance(value, dict):
        return next((model for model in models if value.keys() <= model.model_fields.keys()), models[0])
    return models[0] if models else None


def _flatten(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, without their metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _flatten(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _flatten(member)
    else:
        yield annotation


def _describe_type(field: FieldInfo) -> str:
    names = [_type_name(member) for member in _flatten(field.annotation)]
    bounds = [
        text.format(getattr(constraint, attribute))
        for constraint in field.metadata
        for attribute, text in _BOUNDS.items()
        if getattr(constraint, attribute, None) is not None
    ]
    return " or ".join(names) + "".join(f", {bound}" for bound in bounds)


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list"
    if get_origin(annotation) is dict:
        return "object"
    return {str: "text", int: "integer", float: "number", bool: "boolean"}.get(annotation, str(annotation))


def _to_json(value: Any) -> JsonValue:
    return list(value) if isinstance(value, tuple) else value
