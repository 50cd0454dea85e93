"""Cleaning: drops rows by the recipe's rules before the data set is split, and counts them."""
# Shapes: N rows of the data set.

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import Dataset, hash_row
from training.errors import UserError
from training.recipe.spec import Cleaning

RowMask = NDArray[np.bool_]


def clean_dataset(dataset: Dataset, cleaning: Cleaning) -> Dataset:
    """Drop rows as the recipe says, and count them by reason.

    Raises:
        UserError: a number is missing and the recipe refuses that.
    """
    keep = np.ones(len(dataset), dtype=bool)
    missing = _find_missing(dataset)
    if cleaning.missing == "refuse" and missing.any():
        raise UserError(
            f"row {int(missing.argmax())} has a value that is missing or not finite; correct it, or set clean.missing "
            "to drop (the row) or mean (of the training rows)"
        )
    if cleaning.missing == "drop":
        keep &= ~missing
    counts = {"missing": int((~keep).sum())}
    if cleaning.duplicates == "drop":
        duplicates, contradictory = _find_duplicates(dataset, keep)
        keep &= ~duplicates & ~contradictory
        counts |= {"duplicates": int(duplicates.sum()), "contradictory": int(contradictory.sum())}
    dropped_rows = {reason: count for reason, count in counts.items() if count}
    kept = dataset if keep.all() else dataset.select(torch.from_numpy(keep.nonzero()[0]))
    return replace(kept, dropped_rows=dropped_rows)


def _find_missing(dataset: Dataset) -> RowMask:
    """Find the rows with a number that is missing; bool, shape (N,)."""
    inputs = dataset.inputs
    if isinstance(inputs, Tensor):
        if not inputs.is_floating_point():
            return np.zeros(len(inputs), dtype=bool)
        missing: RowMask = (~torch.isfinite(inputs.reshape(len(inputs), -1))).any(1).numpy()
        return missing
    return np.array([isinstance(row, Tensor) and not bool(torch.isfinite(row).all()) for row in inputs])


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
