"""Cleaning: rows are dropped by the recipe's rules before anything is split, and counted."""
# Shapes: N rows of the set.

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import Dataset, row_digest
from training.errors import UserError
from training.recipe.spec import Cleaning


def clean_dataset(dataset: Dataset, rules: Cleaning) -> Dataset:
    """Drop what the recipe says, before anything is divided, and count it.

    Raises:
        Mistake: a number is missing and the recipe refuses that.
    """
    keep = np.ones(len(dataset), dtype=bool)
    missing = _find_missing(dataset)
    if rules.missing == "refuse" and missing.any():
        raise UserError(
            f"row {int(missing.argmax())} has a value that is missing or not finite; mend it, or set clean.missing to "
            "drop (the row) or mean (of the training rows)"
        )
    if rules.missing == "drop":
        keep &= ~missing
    counts = {"missing": int((~keep).sum())}
    if rules.duplicates == "drop":
        repeated, contradictory = _find_duplicates(dataset, keep)
        keep &= ~repeated & ~contradictory
        counts |= {"duplicates": int(repeated.sum()), "contradictory": int(contradictory.sum())}
    dropped = {what: count for what, count in counts.items() if count}
    kept = dataset if keep.all() else dataset.select(torch.from_numpy(keep.nonzero()[0]))
    return replace(kept, dropped_rows=dropped)


def _find_missing(dataset: Dataset) -> Any:
    """Which rows lack a number; bool, shape (N,)."""
    x = dataset.inputs
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            return np.zeros(len(x), dtype=bool)
        return (~torch.isfinite(x.reshape(len(x), -1))).any(1).numpy()
    return np.array([isinstance(row, Tensor) and not bool(torch.isfinite(row).all()) for row in x])


def _find_duplicates(dataset: Dataset, keep: Any) -> tuple[Any, Any]:
    """Which rows came before, and which have an input that stands there with two classes; bool, shape (N,) each."""
    repeated, contradictory = np.zeros((2, len(dataset)), dtype=bool)
    targets = dataset.targets
    classes = isinstance(targets, Tensor) and targets.dtype == torch.int64
    numbers = isinstance(targets, Tensor) and not classes
    first: dict[bytes, int] = {}
    rows_of: dict[bytes, list[int]] = {}
    for row in keep.nonzero()[0].tolist():
        # Equal inputs with unequal numbers are measurements, no mistake.
        key = row_digest(dataset.inputs[row]) + (row_digest(targets[row]) if numbers and targets is not None else b"")
        repeated[row] = first.setdefault(key, row) != row
        rows_of.setdefault(key, []).append(row)
    if classes and targets is not None:
        for rows in rows_of.values():
            if len({int(targets[row]) for row in rows}) > 1:
                contradictory[rows] = True
    return repeated & ~contradictory, contradictory
