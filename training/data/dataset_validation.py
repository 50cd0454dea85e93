"""Dataset validation: rows that a net cannot take as they are meant are refused, by row and name.

Train walk: dataset.py -> [dataset_validation.py]
What is missing is left to cleaning.py, by the recipe's rule.
"""
# Shapes: N rows of the data set, F features, K channels, T time steps.

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.data.values import is_missing
from training.errors import UserError
from training.schema import ImageInput, InputSchema, SeriesInput, TableInput

if TYPE_CHECKING:
    from training.data.dataset import Dataset

_INPUT_TYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.float16, torch.float32, torch.float64),
)


def validate_dataset(dataset: "Dataset", source: str) -> None:
    """Check the rows, and that inputs, targets, labels, schema and test rows match.

    Raises:
        UserError: they do not; the message names the row.
    """
    if not len(dataset):
        raise UserError(f"{source}: no rows")
    targets = dataset.targets
    if targets is not None and len(dataset.inputs) != len(targets):
        raise UserError(f"{source}: {len(dataset.inputs)} inputs, {len(targets)} targets; return one target per input")
    _validate_labels(dataset.labels, source)
    if dataset.test_index is not None:
        _validate_test_index(dataset.test_index, len(dataset), source)
    if isinstance(dataset.inputs, Tensor):
        _validate_input_tensor(dataset.inputs, dataset.input_schema, source)
    else:
        _validate_input_rows(dataset.inputs, dataset.input_schema, source)
    validate_targets(dataset, source)


def validate_targets(dataset: "Dataset", source: str) -> None:
    """Check the targets against the labels.

    Raises:
        UserError: they do not match, or are of another type.
    """
    targets, labels = dataset.targets, dataset.labels
    if targets is None:
        return
    if not isinstance(targets, Tensor):
        for row, target in enumerate(targets):
            if not isinstance(target, list | tuple | Tensor | int | float) and not is_missing(target):
                raise UserError(
                    f"{source}: the target of row {row} is {target!r:.80} ({type(target).__name__}); give a class as "
                    "its index among the labels, spans as a list"
                )
    elif targets.dtype == torch.int64 and targets.ndim == 1:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(labels):
            raise UserError(
                f"{source}: targets are in {low}..{high}, but there are {len(labels)} labels; name every class, or "
                "make numbers float32"
            )
    elif targets.dtype != torch.float32:
        raise UserError(f"{source}: targets are {targets.dtype}; make classes int64 of shape (N,), numbers float32")
    elif targets.ndim == 1 and len(labels) > 1:
        raise UserError(f"{source}: targets are float32, but there are {len(labels)} labels; make classes int64")


def _validate_labels(labels: Sequence[Any], source: str) -> None:
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise UserError(f"{source}: label {label!r} is no text; name every class by a text")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"{source}: two classes are called {twice!r}; give each a name of its own")


def _validate_test_index(test_index: Tensor, rows: int, source: str) -> None:
    if not isinstance(test_index, Tensor) or test_index.dtype != torch.int64 or test_index.ndim != 1:
        kind = test_index.dtype if isinstance(test_index, Tensor) else type(test_index).__name__
        raise UserError(f"{source}: test_index is {kind}; make it int64 of shape (M,), the rows of the test split")
    outside = test_index[(test_index < 0) | (test_index >= rows)]
    if len(outside):
        raise UserError(f"{source}: test_index has {int(outside[0])}; rows are numbered from 0 to {rows - 1}")
    if len(test_index.unique()) < len(test_index):
        twice = int(test_index.sort().values.diff().eq(0).nonzero()[0])
        raise UserError(f"{source}: test_index has row {int(test_index.sort().values[twice])} twice; name each once")


def _validate_input_tensor(inputs: Tensor, schema: InputSchema | None, source: str) -> None:
    if inputs.dtype not in _INPUT_TYPES:
        raise UserError(f"{source}: inputs are {inputs.dtype}; make them float32, float64, integers or bool")
    shape = tuple(inputs.shape)
    if isinstance(schema, ImageInput):
        needed = (schema.channels, schema.height, schema.width)
        if shape[1:] != needed or inputs.dtype != torch.uint8:
            raise UserError(
                f"{source}: inputs are {inputs.dtype} of shape {shape}; make images uint8 (0 to 255) of shape (N, "
                f"{', '.join(map(str, needed))})"
            )
    elif isinstance(schema, TableInput):
        if len(shape) != 2 or shape[1] != len(schema.features):
            raise UserError(f"{source}: inputs have shape {shape}; make it (N, {len(schema.features)}), the features")
        _validate_categories(inputs, schema, source)
    elif isinstance(schema, SeriesInput) and (len(shape) != 3 or shape[2] != len(schema.features)):
        raise UserError(f"{source}: inputs have shape {shape}; make it (N, T, {len(schema.features)}), the features")


def _validate_categories(inputs: Tensor, schema: TableInput, source: str) -> None:
    """Refuse what is no index of a category, which one-hot encoding would take for a missing one."""
    for column, feature in enumerate(schema.features):
        if feature.categories is None:
            continue
        values = inputs[:, column].to(torch.float64)
        known = torch.arange(len(feature.categories), dtype=torch.float64)
        invalid = ~torch.isin(values, known) & ~values.isnan()
        if invalid.any():
            row = int(invalid.nonzero()[0])
            raise UserError(
                f"{source}: row {row} has {values[row].item():g} for {feature.name!r}; give the index of its category, "
                f"0 to {len(known) - 1}"
            )


def _validate_input_rows(rows: Sequence[Any], schema: InputSchema | None, source: str) -> None:
    """Check that all rows are of one kind: texts, records or tensors."""
    kinds = {str: "a text", dict: "a record", Tensor: "a tensor"}
    first: type | None = None
    for index, row in enumerate(rows):
        if not isinstance(row, Tensor | dict | list) and is_missing(row):
            continue
        kind = next((each for each in kinds if isinstance(row, each)), None)
        if kind is None or kind is not (first := first or kind):
            needed = kinds[first] if first else "a text, a record or a tensor"
            raise UserError(f"{source}: row {index} is {row!r:.80} ({type(row).__name__}); make every row {needed}")
        if isinstance(row, Tensor):
            _validate_tensor_row(row, rows, index, schema, source)
        else:
            _validate_json_row(row, index, source)


def _validate_json_row(row: Any, index: int, source: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        character = f"U+{ord(error.object[error.start]):04X}"
        raise UserError(f"{source}: row {index} has {character}, half a character; decode its text again") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: row {index} cannot be JSON ({error}); give texts, numbers and lists") from None


def _validate_tensor_row(row: Tensor, rows: Sequence[Any], index: int, schema: Any, source: str) -> None:
    first = next(each for each in rows if isinstance(each, Tensor))
    if row.dtype != first.dtype or row.dtype not in _INPUT_TYPES:
        raise UserError(f"{source}: row {index} is {row.dtype}; make all rows {first.dtype}, integers or floats")
    if isinstance(schema, SeriesInput) and (row.ndim != 2 or row.shape[1] != len(schema.features) or not len(row)):
        raise UserError(
            f"{source}: row {index} has shape {tuple(row.shape)}; make it (T, {len(schema.features)}), the features"
        )
