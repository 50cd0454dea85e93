"""Split: divides rows by the recipe's seed into train, validation and test, and counts leaks between them."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import Dataset, hash_row
from training.errors import UserError
from training.recipe.spec import Data
from training.schema import SPLITS


def split_dataset(dataset: Dataset, data: Data) -> dict[str, Tensor]:
    """Split the row indices by the recipe's seed: stratified for classes, else at random.

    Returns:
        Sorted int64 indices for each name of SPLITS.

    Raises:
        UserError: a class has too few rows for all three splits.
    """
    targets = dataset.targets
    classes = targets.numpy() if isinstance(targets, Tensor) and targets.dtype == torch.int64 else None
    test_rows = set() if dataset.test_index is None else set(dataset.test_index.tolist())
    candidates = np.array([row for row in range(len(dataset)) if row not in test_rows])
    indices: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    rng = np.random.default_rng(data.seed)
    for label in range(len(dataset.labels)) if classes is not None else [None]:
        if label is None or classes is None:
            # The test rows of scikit-learn's train_test_split for the same seed: published scores are comparable.
            rows = candidates[np.random.RandomState(data.seed).permutation(len(candidates))]
            num_test = 0 if test_rows else math.ceil(len(rows) * data.test_fraction)
        else:
            rows = rng.permutation(candidates[classes[candidates] == label])
            num_test = 0 if test_rows else round(len(rows) * data.test_fraction)
        num_validation = max(round((len(rows) - num_test) * data.validation_fraction), int(label is None))
        test, validation, train = np.split(rows, [num_test, num_test + num_validation])
        pieces = {"train": train, "validation": validation, "test": test}
        if any(len(piece) == 0 for split, piece in pieces.items() if split != "test" or not test_rows):
            subject = "the data set" if label is None else f"class {dataset.labels[label]!r}"
            raise UserError(
                f"{subject} has {len(rows)} rows, too few for three splits ({', '.join(SPLITS)}); "
                "add rows or change data.test_fraction and data.validation_fraction"
            )
        for split, piece in pieces.items():
            indices[split].append(piece)
    splits = {split: torch.from_numpy(np.sort(np.concatenate(pieces))) for split, pieces in indices.items()}
    return splits | ({"test": dataset.test_index.sort().values} if dataset.test_index is not None else {})


def count_leaks(dataset: Dataset, splits: dict[str, Tensor]) -> int:
    """Count the test rows whose input is also a training row's."""
    train_hashes = {hash_row(dataset.inputs[row]) for row in splits["train"].tolist()}
    return sum(hash_row(dataset.inputs[row]) in train_hashes for row in splits["test"].tolist())
