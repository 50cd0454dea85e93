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
from training.data.values import is_missing
from training.errors import UserError
from training.recipe.spec import Cleaning

RowMask = NDArray[np.bool_]


def clean_dataset(dataset: Dataset, cleaning: Cleaning) -> Dataset:
    """Drop rows as the recipe says, and count them by reason.

    Raises:
        UserError: a value is missing and the recipe refuses that, or it cannot be imputed.
    """
    keep = np.ones(len(dataset), dtype=bool)
    for values, what, can_be_imputed in ((dataset.inputs, "a value", True), (dataset.targets, "a target", False)):
        missing = _find_missing(values, len(dataset))
        if cleaning.missing == "drop":
            keep &= ~missing
        elif missing.any() and not (can_be_imputed and cleaning.missing == "mean" and isinstance(values, Tensor)):
            remedy = "drop (the row)" + (" or mean (of the training rows)" if can_be_imputed else "")
            raise UserError(
                f"row {int(missing.argmax())} has {what} that is missing or not finite; correct it, or set "
                f"clean.missing to {remedy}"
            )
    if not keep.any():
        raise UserError(f"each of the {len(dataset)} rows has a value that is missing; correct them")
    counts = {"missing": int((~keep).sum())}
    if cleaning.duplicates == "drop":
        duplicates, contradictory = _find_duplicates(dataset, keep)
        keep &= ~duplicates & ~contradictory
        counts |= {"duplicates": int(duplicates.sum()), "contradictory": int(contradictory.sum())}
    dropped_rows = {reason: count for reason, count in counts.items() if count}
    kept = dataset if keep.all() else dataset.select(torch.from_numpy(keep.nonzero()[0]))
    return replace(kept, dropped_rows=dropped_rows)


def _find_missing(values: Tensor | Sequence[Any] | None, rows: int) -> RowMask:
    """Find the rows with a value that is missing; bool, shape (N,)."""
    if values is None or (isinstance(values, Tensor) and not values.is_floating_point()):
        return np.zeros(rows, dtype=bool)
    if isinstance(values, Tensor):
        missing: RowMask = (~torch.isfinite(values.reshape(len(values), -1))).any(1).numpy()
        return missing
    return np.array([_is_missing(value) for value in values], dtype=bool)


def _is_missing(value: Any) -> bool:
    """Whether a value is null, not a finite number, or a text of nothing but whitespace; as in files."""
    if isinstance(value, Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return any(_is_missing(each) for each in value.values())
    return is_missing(value)


def _find_duplicates(dataset: Dataset, keep: RowMask) -> tuple[RowMask, RowMask]:
    """Find the rows that repeat an earlier one, and those whose input occurs with two classes; bool, shape (N,)."""
    duplicates, contradictory = np.zeros((2, len(dataset)), dtype=bool)
    targets = dataset.targets
    has_classes = isinstance(targets, Tensor) and targets.dtype == torch.int64
    has_numbers = isinstance(targets, Tensor) and not has_classes
    rows_by_hash: dict[bytes, list[int]] = {}
    for row in keep.nonzero()[0].tolist():
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
