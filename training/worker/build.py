"""Builds a recipe's net with the layers that data and task put before and behind it, optimizer, schedule, augmentation.

Train walk: training_worker.py -> [build.py] -> training.data.input_layers
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.data.input_layers import EncodeColumns, Standardize
from training.data.preprocessing import EncodedRows
from training.errors import UserError
from training.recipe.load import import_path
from training.recipe.renamed import RENAMED_SIZES, renamed_net_parameter_hint
from training.recipe.spec import Net, Recipe
from training.schema import InputSchema, SeriesInput, TableInput
from training.tasks.base import Task

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Varies a batch's inputs and targets, drawing from the generator."""

# A batch normalization of one row has no deviation.
LAZY_ROWS = 2


def build_net(recipe: Recipe, task: Task, train: EncodedRows) -> nn.Module:
    """Build the recipe's net, with the input layer that its data needs and the output layer that its task needs.

    Sizes that come from the data (`vocab_size`, `num_classes`, `num_features`) may be left out of the recipe's
    arguments. Lazy layers take theirs from the training rows here, before DDP, an optimizer or an export sees them.

    Raises:
        UserError: the arguments do not fit the recipe's net, or it is not a module.
    """
    input_layer = _build_input_layer(recipe, task.preprocessing.input_schema, train)
    sizes = task.net_sizes | _feature_sizes(task.preprocessing.input_schema)
    source = import_path(recipe.net.source)
    net = source(**_net_arguments(recipe.net, source, sizes))
    if not isinstance(net, nn.Module):
        raise UserError(f"{recipe.net.source} returned a {type(net).__name__}; return a torch.nn.Module")
    layers = [layer for layer in (input_layer, net, task.output_layer(train)) if layer is not None]
    built = nn.Sequential(*layers) if len(layers) > 1 else net
    _materialize_lazy_layers(recipe, built, train.inputs[:LAZY_ROWS])
    return built


def build_optimizer(recipe: Recipe, net: nn.Module) -> Optimizer:
    """Build the recipe's optimizer over the net's parameters; Adam and AdamW are fused unless it says otherwise."""
    name, args = recipe.optimizer.name, dict(recipe.optimizer.args)
    if name in ("Adam", "AdamW") and not {"foreach", "differentiable"} & args.keys():
        # One pass over the parameters instead of ten: on a CPU five times as fast where there are millions.
        args.setdefault("fused", True)
    optimizer: Optimizer = getattr(torch.optim, name)(net.parameters(), lr=recipe.optimizer.lr, **args)
    return optimizer


def build_schedule(recipe: Recipe, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Build the learning-rate schedule: linear warmup, then constant, or a cosine to 0 at `total_steps`."""
    warmup_steps = round(recipe.schedule.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if recipe.schedule.name == "constant":
            return 1.0
        fraction = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))

    return LambdaLR(optimizer, factor)


def build_augmentation(recipe: Recipe) -> Augment:
    """Build the recipe's augmentation; without one, rows are not changed."""
    if recipe.augmentation is None:
        return lambda x_B, targets_B, generator: (x_B, targets_B)
    return partial(import_path(recipe.augmentation.source), **recipe.augmentation.args)


def _materialize_lazy_layers(recipe: Recipe, net: nn.Module, inputs: Tensor) -> None:
    if not _find_lazy_layers(net):
        return
    was_training = net.training
    with torch.no_grad():
        net.eval()(inputs)
    net.train(was_training)
    unused = _find_lazy_layers(net)
    if unused:
        raise UserError(
            f"{recipe.net.source}: no row passes the lazy layer {unused[0]!r}; use it in forward, or remove it"
        )


def _find_lazy_layers(net: nn.Module) -> list[str]:
    """Names of the layers whose sizes are not known yet."""
    return [name for name, layer in net.named_modules() if isinstance(layer, LazyModuleMixin) and _is_lazy(layer)]


def _is_lazy(layer: Any) -> bool:
    is_lazy: bool = layer.has_uninitialized_params()
    return is_lazy


def _net_arguments(net: Net, source: Callable[..., object], sizes: dict[str, int]) -> dict[str, object]:
    """Add the sizes that the source takes by name to the recipe's arguments.

    Raises:
        UserError: the source lacks a parameter of the recipe, or calls a size by a name of earlier versions.
    """
    parameters = inspect.signature(source).parameters
    has_kwargs = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in net.args:
        if name not in parameters and not has_kwargs:
            hint = renamed_net_parameter_hint(name, parameters)
            raise UserError(f"{net.source} has no parameter {name!r}; it has {', '.join(parameters)}{hint}")
    args: dict[str, object] = {name: size for name, size in sizes.items() if name in parameters}
    args.update(net.args)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in args and name in RENAMED_SIZES:
            raise UserError(f"{net.source}: the parameter {name!r} is called {RENAMED_SIZES[name]!r} now; rename it")
    return args


def _build_input_layer(recipe: Recipe, schema: InputSchema, train: EncodedRows) -> nn.Module | None:
    """Build the layer that standardizes and encodes inputs, fitted on the training rows; None where none is needed."""
    if isinstance(schema, TableInput) and any(feature.categories for feature in schema.features):
        category_counts = [len(feature.categories) if feature.categories else None for feature in schema.features]
        return EncodeColumns.fit(train.inputs, category_counts, impute_missing=schema.allow_missing)
    if not recipe.standardize or schema.kind == "text":
        return None
    if isinstance(schema, SeriesInput):
        return Standardize.fit(train.inputs, feature_dim=2)
    return Standardize.fit(train.inputs, impute_missing=isinstance(schema, TableInput) and schema.allow_missing)


def _feature_sizes(schema: InputSchema) -> dict[str, int]:
    """Return the number of features that the recipe's net takes per row or time step, by its argument's name."""
    if isinstance(schema, TableInput):
        return {"num_features": schema.encoded_width}
    return {"num_features": len(schema.features)} if isinstance(schema, SeriesInput) else {}
