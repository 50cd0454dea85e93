"""The net that is trained and published: a first layer fitted on the training rows, the recipe's net, a last layer.

Train walk: prepare.py -> [assemble.py] -> loop.py
"""

import inspect

import torch
from torch import nn
from torch.optim import Optimizer

from training.data.input_layers import EncodeColumns, Standardize
from training.data.preprocessing import EncodedRows
from training.errors import UserError
from training.recipe.load import import_path
from training.recipe.spec import Recipe
from training.schema import InputSchema, SeriesInput, TableInput
from training.tasks.base import Task


def build_net(recipe: Recipe, task: Task, train: EncodedRows) -> nn.Module:
    """Make the recipe's net with the layers around it that its data and its task need.

    A size that comes from the data (`vocabulary`, `classes`, `features`) may be left out of the recipe's arguments.

    Raises:
        Mistake: the recipe's net is no module.
    """
    first = _input_layer(recipe, task.preprocessing.input_schema, train)
    source, args = import_path(recipe.net.source), dict(recipe.net.args)
    sizes = task.net_sizes | _feature_sizes(task.preprocessing.input_schema, first)
    for name in inspect.signature(source).parameters:
        if name in sizes:
            args.setdefault(name, sizes[name])
    net = source(**args)
    if not isinstance(net, nn.Module):
        raise UserError(f"{recipe.net.source} returned a {type(net).__name__}; return a torch.nn.Module")
    layers = [layer for layer in (first, net, task.output_layer(train)) if layer is not None]
    return nn.Sequential(*layers) if len(layers) > 1 else net


def build_optimizer(recipe: Recipe, net: nn.Module) -> Optimizer:
    """Make the recipe's optimiser over the net's weights."""
    name, args = recipe.optimizer.name, dict(recipe.optimizer.args)
    if name in ("Adam", "AdamW") and not {"foreach", "differentiable"} & args.keys():
        # One pass over the weights instead of ten: on a CPU five times as fast where there are millions.
        args.setdefault("fused", True)
    optimiser: Optimizer = getattr(torch.optim, name)(net.parameters(), lr=recipe.optimizer.lr, **args)
    return optimiser


def _input_layer(recipe: Recipe, words: InputSchema, train: EncodedRows) -> nn.Module | None:
    if isinstance(words, TableInput) and any(feature.categories for feature in words.features):
        levels = [len(feature.categories) if feature.categories else None for feature in words.features]
        return EncodeColumns.fit(train.inputs, levels, fill=words.allow_missing)
    if not recipe.standardize or words.kind == "text":
        return None
    if isinstance(words, SeriesInput):
        return Standardize.fit(train.inputs, axis=2)
    return Standardize.fit(train.inputs, fill=isinstance(words, TableInput) and words.allow_missing)


def _feature_sizes(words: InputSchema, first: nn.Module | None) -> dict[str, int]:
    """How many numbers the recipe's net gets for a row, or for a step of it."""
    if isinstance(first, EncodeColumns):
        return {"features": first.width}
    return {"features": len(words.features)} if isinstance(words, TableInput | SeriesInput) else {}
