"""Row sequences: what a data source returned as inputs or targets becomes a tensor or a list, by position.

Train walk: dataset.py -> [row_sequences.py]
A pandas Series looks a number up among its labels: of a shuffled one, row 3 is another row for its index than for its
place. Knows pandas, polars and Arrow by their names only; none is imported.
"""
# Shapes: N rows.

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.rounding import find_rounding_loss
from training.data.values import is_missing
from training.errors import UserError

_INT64 = range(-(2**63), 2**63)


def to_rows(values: Any, what: str) -> Tensor | list[Any]:
    """Convert a tensor, an array, a column of a table or a sequence to a tensor or a list of its rows, in order.

    Args:
        values: as the source returned them.
        what: they are, for messages.

    Raises:
        UserError: they are a table, or no sequence.
    """
    if isinstance(values, Tensor):
        if not values.ndim:
            raise UserError(f"{what} are one number; return a tensor of shape (N, ...)")
        return values
    if is_of_table_library(values):
        if hasattr(type(values), "columns"):
            raise UserError(f"{what} are a {type(values).__name__}; return a tensor of its numbers, or one column")
        # To a numpy array and back would make integers with a missing one floats.
        values = values.to_pylist() if hasattr(values, "to_pylist") else _column_to_array(values)
    if isinstance(values, np.ndarray):
        return _array_to_rows(values, what)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        raise UserError(f"{what} are a {type(values).__name__}; return a tensor, an array or a list")
    return [_to_row(value) for value in values]


def is_of_table_library(values: Any) -> bool:
    """Whether it is a table or a column of pandas, polars or Arrow."""
    return type(values).__module__.partition(".")[0] in ("pandas", "polars", "pyarrow")


def stack_numbers(rows: Tensor | list[Any], what: str) -> Tensor | list[Any]:
    """Convert a list of numbers to a tensor, int64 or float32; other rows, and integers with a missing one, stay.

    Raises:
        UserError: the tensor's type does not hold a number.
    """
    if isinstance(rows, Tensor) or not rows or not all(isinstance(row, int | float) for row in rows):
        return rows
    if all(isinstance(row, int) for row in rows):
        for index, row in enumerate(rows):
            if row not in _INT64:
                raise UserError(f"row {index} of {what} is {row}, which 64 bits do not hold")
        return torch.tensor(rows, dtype=torch.int64)
    if all(isinstance(row, int) or is_missing(row) for row in rows):
        return rows
    return round_numbers(torch.tensor(rows, dtype=torch.float64), what)


def round_numbers(numbers: Tensor, what: str) -> Tensor:
    """Convert float64 (N,) to float32.

    Raises:
        UserError: they would lose their digits or differences.
    """
    if loss := find_rounding_loss(numbers.numpy()):
        raise UserError(f"row {loss.index} of {what}: {loss.problem}")
    return numbers.to(torch.float32)


def _column_to_array(column: Any) -> Any:
    array = column.to_numpy()
    return array if isinstance(array, np.ndarray) and array.dtype.kind in "biuf" else list(column)


def _array_to_rows(array: Any, what: str) -> Tensor | list[Any]:
    if array.dtype.kind not in "biuf":
        if array.ndim != 1:
            raise UserError(f"{what} are an array of {array.dtype} and shape {array.shape}; return one of numbers")
        return [_to_row(value) for value in array.tolist()]
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{what} hold {array.max()}, which 64 bits with a sign do not hold")
    if not array.ndim or array.dtype.itemsize > 8:
        raise UserError(f"{what} are {array.dtype} of shape {array.shape}; return float64 of shape (N, ...)")
    # torch computes with few of the unsigned types, and with the machine's byte order only.
    wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
    dtype = wider.get(array.dtype.newbyteorder("=").name, array.dtype.newbyteorder("="))
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def _to_row(value: Any) -> Any:
    """A row as torch and Python have it, for one that numpy made."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _array_to_rows(value, "a row's values") if value.ndim else value.item()
    if isinstance(value, np.str_):
        return str(value)
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    return dict(value) if isinstance(value, Mapping) else value
