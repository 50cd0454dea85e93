"""Data: what a data set is, and how it is divided without leaking.

Train walk: run.py -> loop.py -> [data.py]
Knows nothing of nets or Ray. The packaged sets themselves are in datasets.py.
"""
# Shapes: N rows of the set, B rows of a batch.

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.errors import Mistake
from training.recipe import Data, load_path
from training.words import Words


@dataclass(frozen=True)
class Dataset:
    """Rows that fit in memory, with what a model card must say of them.

    Attributes:
        inputs: shape (N, ...), in the type that a caller will send: uint8 pixels, float32 features.
        targets: int64, shape (N,), index into labels.
        labels: names of the classes, in order.
        words: how one row is put in words.
        source: where the rows are from.
        licence: under what terms.
    """

    inputs: Tensor
    targets: Tensor
    labels: tuple[str, ...]
    words: Words
    source: str
    licence: str

    def fingerprint(self) -> str:
        """sha256 over types, shapes and every byte of inputs and targets: the same rows, the same fingerprint."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Rows:
    """One part of a data set: inputs (N, ...), targets int64 (N,)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; no row is in two of them."""

    train: Rows
    validation: Rows
    test: Rows


def load(data: Data) -> Dataset:
    """Call the recipe's source and check what it returned.

    Raises:
        Mistake: it is not a Dataset, or its rows do not fit each other.
    """
    dataset = load_path(data.source)(**data.args)
    if not isinstance(dataset, Dataset):
        raise Mistake(f"{data.source} returned a {type(dataset).__name__}; return a training.data.Dataset")
    if len(dataset.inputs) != len(dataset.targets):
        raise Mistake(f"{data.source}: {len(dataset.inputs)} inputs, {len(dataset.targets)} targets; give one each")
    if dataset.targets.dtype != torch.int64 or dataset.targets.ndim != 1:
        raise Mistake(f"{data.source}: targets are {dataset.targets.dtype}; make them int64 of shape (N,)")
    low, high = int(dataset.targets.min()), int(dataset.targets.max())
    if low < 0 or high >= len(dataset.labels):
        raise Mistake(f"{data.source}: targets run {low}..{high} over {len(dataset.labels)} labels; name every class")
    if dataset.inputs.is_floating_point() and not torch.isfinite(dataset.inputs).all():
        row = int((~torch.isfinite(dataset.inputs.flatten(1))).any(1).nonzero()[0])
        raise Mistake(f"{data.source}: row {row} is not finite; drop or fill such rows")
    return dataset


def split(dataset: Dataset, data: Data) -> Splits:
    """Divide a data set, each class in the same proportion (stratified), by the recipe's seed.

    Raises:
        Mistake: a class has too few rows to stand in all three parts.
    """
    rng = np.random.default_rng(data.seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    targets = dataset.targets.numpy()
    for label in range(len(dataset.labels)):
        rows = rng.permutation(np.flatnonzero(targets == label))
        n_test = round(len(rows) * data.test_fraction)
        n_validation = round((len(rows) - n_test) * data.validation_fraction)
        cuts = np.split(rows, [n_test, n_test + n_validation])
        if any(len(cut) == 0 for cut in cuts):
            raise Mistake(
                f"class {dataset.labels[label]!r} has {len(rows)} rows, too few for three parts "
                "(training, validation, test); add rows or change data.test_fraction and data.validation_fraction"
            )
        for part, cut in zip(parts, cuts, strict=True):
            part.append(cut)
    test, validation, train = (torch.from_numpy(np.sort(np.concatenate(part))) for part in parts)

    def rows_of(index: Tensor) -> Rows:
        return Rows(dataset.inputs[index], dataset.targets[index])

    return Splits(rows_of(train), rows_of(validation), rows_of(test))


def batches(rows: Rows, *, batch_rows: int, seed: int, epoch: int, rank: int, world: int) -> Iterator[Rows]:
    """Yield this worker's share of each step of one epoch, in an order that (seed, epoch) alone decides.

    Every worker yields the same number of batches of batch_rows / world rows (DDP waits for all of them); what does not
    fill a last step is left out of this epoch and, the order being new each time, of no other in particular.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    mine = batch_rows // world
    for start in range(0, len(rows) - batch_rows + 1, batch_rows):
        index = order[start + rank * mine : start + (rank + 1) * mine]
        yield Rows(rows.inputs[index], rows.targets[index])
