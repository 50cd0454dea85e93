"""Split: rows divided by the recipe's seed into train, validation and test, and leaks between them counted."""
# Shapes: N rows of the set.

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import Dataset, row_digest
from training.errors import UserError
from training.recipe.spec import Data
from training.schema import SPLITS


def split_dataset(dataset: Dataset, data: Data) -> dict[str, Tensor]:
    """Divide the rows' numbers by the recipe's seed: classes in equal proportion (stratified), anything else at random.

    Raises:
        Mistake: a class has too few rows to stand in all three parts.
    """
    targets = dataset.targets
    classes = targets.numpy() if isinstance(targets, Tensor) and targets.dtype == torch.int64 else None
    held = set() if dataset.test_index is None else set(dataset.test_index.tolist())
    free = np.array([row for row in range(len(dataset)) if row not in held])
    parts: dict[str, list[Any]] = {part: [] for part in SPLITS}
    rng = np.random.default_rng(data.seed)
    for label in range(len(dataset.labels)) if classes is not None else [None]:
        if label is None or classes is None:
            # The test rows of scikit-learn's train_test_split for the same seed: published scores are comparable.
            rows = free[np.random.RandomState(data.seed).permutation(len(free))]
            n_test = 0 if held else math.ceil(len(rows) * data.test_fraction)
        else:
            rows = rng.permutation(free[classes[free] == label])
            n_test = 0 if held else round(len(rows) * data.test_fraction)
        n_validation = max(round((len(rows) - n_test) * data.validation_fraction), int(label is None))
        cuts = dict(zip(("test", "validation", "train"), np.split(rows, [n_test, n_test + n_validation]), strict=True))
        if any(len(cut) == 0 for part, cut in cuts.items() if part != "test" or not held):
            what = "the data set" if label is None else f"class {dataset.labels[label]!r}"
            raise UserError(
                f"{what} has {len(rows)} rows, too few for three parts (training, validation, test); "
                "add rows or change data.test_fraction and data.validation_fraction"
            )
        for part, cut in cuts.items():
            parts[part].append(cut)
    found = {part: torch.from_numpy(np.sort(np.concatenate(cuts))) for part, cuts in parts.items()}
    return found | ({"test": dataset.test_index.sort().values} if dataset.test_index is not None else {})


def count_leaks(dataset: Dataset, parts: dict[str, Tensor]) -> int:
    """Count the test rows whose input stands in the training part as well."""
    known = {row_digest(dataset.inputs[row]) for row in parts["train"].tolist()}
    return sum(row_digest(dataset.inputs[row]) in known for row in parts["test"].tolist())
