"""The net that is trained and published: a first layer fitted on the training rows, the recipe's net, a last layer.

Train walk: prepare.py -> [assemble.py] -> loop.py
"""

import inspect

import torch
from torch import nn
from torch.optim import Optimizer

from training.errors import Mistake
from training.nets.standardise import Columns, Standardise
from training.prepare import Rows
from training.recipe import Recipe, load_path
from training.tasks.base import Task
from training.words import SeriesWords, TableWords, Words


def build_net(recipe: Recipe, task: Task, train: Rows) -> nn.Module:
    """Make the recipe's net with the layers around it that its data and its task need.

    A size that comes from the data (`vocabulary`, `classes`, `features`) may be left out of the recipe's arguments.

    Raises:
        Mistake: the recipe's net is no module.
    """
    first = _first_layer(recipe, task.fitted.words, train)
    source, args = load_path(recipe.net.source), dict(recipe.net.args)
    sizes = task.sizes | _features(task.fitted.words, first)
    for name in inspect.signature(source).parameters:
        if name in sizes:
            args.setdefault(name, sizes[name])
    net = source(**args)
    if not isinstance(net, nn.Module):
        raise Mistake(f"{recipe.net.source} returned a {type(net).__name__}; return a torch.nn.Module")
    layers = [layer for layer in (first, net, task.back(train)) if layer is not None]
    return nn.Sequential(*layers) if len(layers) > 1 else net


def build_optimiser(recipe: Recipe, net: nn.Module) -> Optimizer:
    """Make the recipe's optimiser over the net's weights."""
    name, args = recipe.optimiser.name, dict(recipe.optimiser.args)
    if name in ("Adam", "AdamW") and not {"foreach", "differentiable"} & args.keys():
        # One pass over the weights instead of ten: on a CPU five times as fast where there are millions.
        args.setdefault("fused", True)
    optimiser: Optimizer = getattr(torch.optim, name)(net.parameters(), lr=recipe.optimiser.lr, **args)
    return optimiser


def _first_layer(recipe: Recipe, words: Words, train: Rows) -> nn.Module | None:
    if isinstance(words, TableWords) and any(feature.levels for feature in words.features):
        levels = [len(feature.levels) if feature.levels else None for feature in words.features]
        return Columns.fit(train.inputs, levels, fill=words.missing)
    if not recipe.standardise or words.kind == "text":
        return None
    if isinstance(words, SeriesWords):
        return Standardise.fit(train.inputs, axis=2)
    return Standardise.fit(train.inputs, fill=isinstance(words, TableWords) and words.missing)


def _features(words: Words, first: nn.Module | None) -> dict[str, int]:
    """How many numbers the recipe's net gets for a row, or for a step of it."""
    if isinstance(first, Columns):
        return {"features": first.width}
    return {"features": len(words.features)} if isinstance(words, TableWords | SeriesWords) else {}
