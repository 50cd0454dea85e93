"""Cleaning: drops rows by the recipe's rules before the data set is split, and counts them."""
# Shapes: N rows of the data set.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import Dataset, hash_row
from training.data.row_sequences import stack_numbers
from training.data.values import is_missing
from training.errors import UserError
from training.recipe.spec import Cleaning
from training.schema import TableInput

RowMask = NDArray[np.bool_]


def clean_dataset(dataset: Dataset, cleaning: Cleaning) -> Dataset:
    """Drop rows as the recipe says, and count them by reason.

    Raises:
        UserError: a value is missing and the recipe refuses that, or it cannot be imputed; or it is infinite.
    """
    _refuse_infinite(dataset)
    rows = len(dataset)
    dataset = _drop_missing(dataset, cleaning)
    counts = {"missing": rows - len(dataset)}
    keep = np.ones(len(dataset), dtype=bool)
    if cleaning.duplicates == "drop":
        duplicates, contradictory = _find_duplicates(dataset)
        keep = ~duplicates & ~contradictory
        counts |= {"duplicates": int(duplicates.sum()), "contradictory": int(contradictory.sum())}
    dropped_rows = {reason: count for reason, count in counts.items() if count}
    return replace(_select_rows(dataset, keep), dropped_rows=dropped_rows)


def _drop_missing(dataset: Dataset, cleaning: Cleaning) -> Dataset:
    """Drop or refuse rows with a value or a target that is missing; one that can be imputed stays."""
    keep = np.ones(len(dataset), dtype=bool)
    # In the padding of a series and the pixels of an image NaN has another meaning or none.
    is_table = isinstance(dataset.input_schema, TableInput) and isinstance(dataset.inputs, Tensor)
    for values, what, can_be_imputed in ((dataset.inputs, "a value", is_table), (dataset.targets, "a target", False)):
        missing = _find_missing(values, len(dataset))
        if cleaning.missing == "drop":
            keep &= ~missing
        elif missing.any() and not (can_be_imputed and cleaning.missing == "mean"):
            remedy = "drop (the row)" + (" or mean (of the training rows)" if can_be_imputed else "")
            raise UserError(
                f"row {int(missing.argmax())} has {what} that is missing; correct it, or set clean.missing to {remedy}"
            )
    if not keep.any():
        raise UserError(f"each of the {len(dataset)} rows has a value that is missing; correct them")
    kept = _select_rows(dataset, keep)
    # A list of classes of which one was missing.
    targets = (
        kept.targets if isinstance(kept.targets, Tensor | None) else stack_numbers(list(kept.targets), "the targets")
    )
    return replace(kept, targets=targets)


def _select_rows(dataset: Dataset, keep: RowMask) -> Dataset:
    return dataset if keep.all() else dataset.select(torch.from_numpy(keep.nonzero()[0]))


def _refuse_infinite(dataset: Dataset) -> None:
    """Refuse infinity, which is no missing value, whatever the recipe says of those."""
    schema = dataset.input_schema
    for values, what in ((dataset.inputs, "a value"), (dataset.targets, "a target")):
        for index, row in enumerate([values] if isinstance(values, Tensor) else values or []):
            infinite = row.isinf() if isinstance(row, Tensor) else None
            if infinite is None or not infinite.any():
                continue
            place = infinite.nonzero()[0].tolist()
            position = place[0] if isinstance(values, Tensor) else index
            is_named = isinstance(schema, TableInput) and values is dataset.inputs and len(place) == 2
            name = f" for {schema.feature_names[place[1]]!r}" if is_named else ""  # type: ignore[union-attr]
            raise UserError(
                f"row {position} has {what}{name} that is not finite ({row[tuple(place)].item()}), and no missing "
                "value; correct it"
            )


def _find_missing(values: Tensor | Sequence[Any] | None, rows: int) -> RowMask:
    """Find the rows with a value that is missing; bool, shape (N,)."""
    if values is None or (isinstance(values, Tensor) and not values.is_floating_point()):
        return np.zeros(rows, dtype=bool)
    if isinstance(values, Tensor):
        missing: RowMask = values.reshape(len(values), -1).isnan().any(1).numpy()
        return missing
    return np.array([_is_missing(value) for value in values], dtype=bool)


def _is_missing(value: Any) -> bool:
    """Whether a value is null, NaN, or a text of nothing but whitespace; as in files."""
    if isinstance(value, Tensor):
        return bool(value.isnan().any())
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return any(_is_missing(each) for each in value.values())
    return is_missing(value)


def _find_duplicates(dataset: Dataset) -> tuple[RowMask, RowMask]:
    """Find the rows that repeat an earlier one, and those whose input occurs with two classes; bool, shape (N,)."""
    duplicates, contradictory = np.zeros((2, len(dataset)), dtype=bool)
    targets = dataset.targets
    has_classes = isinstance(targets, Tensor) and targets.dtype == torch.int64
    has_numbers = isinstance(targets, Tensor) and not has_classes
    rows_by_hash: dict[bytes, list[int]] = {}
    for row in range(len(dataset)):
        row_hash = hash_row(dataset.inputs[row])
        if has_numbers and targets is not None:
            # Equal inputs with different numbers are repeated measurements, not contradictions.
            row_hash += hash_row(targets[row])
        equal_rows = rows_by_hash.setdefault(row_hash, [])
        duplicates[row] = bool(equal_rows)
        equal_rows.append(row)
    if has_classes and targets is not None:
        for rows in rows_by_hash.values():
            if len({int(targets[row]) for row in rows}) > 1:
                contradictory[rows] = True
    return duplicates & ~contradictory, contradictory
