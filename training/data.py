"""Data: what a data set is, and how it is cleaned and divided without leaking.

Train walk: run.py -> loop.py -> [data.py] -> prepare.py
Rows are still as their source gave them: texts, pictures, records. Knows nothing of nets or Ray.
"""
# Shapes: N rows of the set.

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.errors import Mistake
from training.recipe import Clean, Data, load_path
from training.words import Words

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Rows that fit in memory, with what a model card must say of them.

    Attributes:
        inputs: one a row: a tensor of shape (N, ...) in the type that a caller will send (uint8 pixels, float32
            features), or a list of texts, of float32 series (T, F), or of records.
        targets: one a row: int64 (N,) into `labels` for classes; float32 (N,) for numbers; lists of spans (start, end,
            label) in characters for tags; float32 (N, M, 5) of x1, y1, x2, y2, label number for boxes, where rows
            that a picture has no box for are -1; None where the input is its own target.
        words: how one row is put in words; None for text, whose tokeniser is fitted after the split.
        labels: names of the classes, span types or boxes, in order; for a number, its one name.
        source: where the rows are from.
        licence: under what terms.
        held_out: int64, the rows that must be the test part; None for a random one.
    """

    inputs: Tensor | Sequence[Any]
    targets: Tensor | Sequence[Any] | None = None
    labels: tuple[str, ...] = ()
    words: Words | None = None
    source: str = ""
    licence: str = ""
    held_out: Tensor | None = None
    cleaned: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def fingerprint(self) -> str:
        """sha256 over every row's input and target, in order: the same rows, the same fingerprint."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(_key(self.inputs[index]))
            digest.update(_key(None if self.targets is None else self.targets[index]))
        return digest.hexdigest()

    def select(self, rows: Tensor) -> "Dataset":
        """The rows of these numbers, in this order; those held out keep their place among them."""
        held = None
        if self.held_out is not None:
            held = torch.isin(rows, self.held_out).nonzero().flatten()
        return replace(self, inputs=_take(self.inputs, rows), targets=_take(self.targets, rows), held_out=held)


def load(data: Data) -> Dataset:
    """Call the recipe's source and check what it returned.

    A source returns a Dataset, or an object with three methods: `__len__`, `__getitem__` (row number to input and
    target) and `about` (the other attributes of a Dataset, as a dict).

    Raises:
        Mistake: it returned neither, or its rows do not fit each other.
    """
    found = load_path(data.source)(**data.args)
    if all(hasattr(found, method) for method in ("__len__", "__getitem__", "about")):
        found = _collected(found)
    if not isinstance(found, Dataset):
        raise Mistake(
            f"{data.source} returned a {type(found).__name__}; return a training.data.Dataset, or an object with "
            "__len__, __getitem__ and about"
        )
    _check(found, data.source)
    return found


def clean(dataset: Dataset, rules: Clean) -> Dataset:
    """Drop what the recipe says, before anything is divided, and count it.

    Raises:
        Mistake: a number is missing and the recipe refuses that.
    """
    keep = np.ones(len(dataset), dtype=bool)
    missing = _missing(dataset)
    if rules.missing == "refuse" and missing.any():
        raise Mistake(
            f"row {int(missing.argmax())} has a value that is missing or not finite; mend it, or set clean.missing to "
            "drop (the row) or mean (of the training rows)"
        )
    if rules.missing == "drop":
        keep &= ~missing
    counts = {"missing": int((~keep).sum())}
    if rules.duplicates == "drop":
        repeated, contradictory = _repeated(dataset, keep)
        keep &= ~repeated & ~contradictory
        counts |= {"duplicates": int(repeated.sum()), "contradictory": int(contradictory.sum())}
    dropped = {what: count for what, count in counts.items() if count}
    kept = dataset if keep.all() else dataset.select(torch.from_numpy(keep.nonzero()[0]))
    return replace(kept, cleaned=dropped)


def divide(dataset: Dataset, data: Data) -> dict[str, Tensor]:
    """Divide the rows' numbers by the recipe's seed: classes in equal proportion (stratified), anything else at random.

    Raises:
        Mistake: a class has too few rows to stand in all three parts.
    """
    targets = dataset.targets
    classes = targets.numpy() if isinstance(targets, Tensor) and targets.dtype == torch.int64 else None
    held = set() if dataset.held_out is None else set(dataset.held_out.tolist())
    free = np.array([row for row in range(len(dataset)) if row not in held])
    parts: dict[str, list[Any]] = {part: [] for part in PARTS}
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
            raise Mistake(
                f"{what} has {len(rows)} rows, too few for three parts (training, validation, test); "
                "add rows or change data.test_fraction and data.validation_fraction"
            )
        for part, cut in cuts.items():
            parts[part].append(cut)
    found = {part: torch.from_numpy(np.sort(np.concatenate(cuts))) for part, cuts in parts.items()}
    return found | ({"test": dataset.held_out.sort().values} if dataset.held_out is not None else {})


def leaks(dataset: Dataset, parts: dict[str, Tensor]) -> int:
    """Count the test rows whose input stands in the training part as well."""
    known = {_key(dataset.inputs[row]) for row in parts["train"].tolist()}
    return sum(_key(dataset.inputs[row]) in known for row in parts["test"].tolist())


def _collected(rows: Any) -> Dataset:
    """Turn an object with the three methods into a Dataset; what is all tensors of one shape is stacked."""
    inputs, targets = zip(*(rows[index] for index in range(len(rows))), strict=True)
    about = dict(rows.about())
    try:
        return Dataset(inputs=_stacked(inputs), targets=None if targets[0] is None else _stacked(targets), **about)
    except TypeError as error:
        raise Mistake(f"{type(rows).__name__}.about(): {error}; give the attributes of a Dataset") from None


def _stacked(values: Sequence[Any]) -> Tensor | list[Any]:
    first = values[0]
    if isinstance(first, Tensor) and all(value.shape == first.shape for value in values):
        return torch.stack(list(values))
    if isinstance(first, bool | int):
        return torch.tensor(values, dtype=torch.int64)
    if isinstance(first, float):
        return torch.tensor(values, dtype=torch.float32)
    return list(values)


def _check(dataset: Dataset, source: str) -> None:
    targets = dataset.targets
    if not len(dataset):
        raise Mistake(f"{source}: no rows")
    if targets is not None and len(dataset.inputs) != len(targets):
        raise Mistake(f"{source}: {len(dataset.inputs)} inputs, {len(targets)} targets; give one each")
    if not isinstance(targets, Tensor):
        return
    if targets.dtype == torch.int64 and targets.ndim == 1:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(dataset.labels):
            raise Mistake(f"{source}: targets run {low}..{high} over {len(dataset.labels)} labels; name every class")
    elif targets.dtype != torch.float32:
        raise Mistake(f"{source}: targets are {targets.dtype}; make classes int64 of shape (N,), numbers float32")
    elif not torch.isfinite(targets).all():
        row = int((~torch.isfinite(targets.reshape(len(targets), -1))).any(1).nonzero()[0])
        raise Mistake(f"{source}: the target of row {row} is not finite; drop such rows")


def _missing(dataset: Dataset) -> Any:
    """Which rows lack a number; bool, shape (N,)."""
    x = dataset.inputs
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            return np.zeros(len(x), dtype=bool)
        return (~torch.isfinite(x.reshape(len(x), -1))).any(1).numpy()
    return np.array([isinstance(row, Tensor) and not bool(torch.isfinite(row).all()) for row in x])


def _repeated(dataset: Dataset, keep: Any) -> tuple[Any, Any]:
    """Which rows came before, and which have an input that stands there with two classes; bool, shape (N,) each."""
    repeated, contradictory = np.zeros((2, len(dataset)), dtype=bool)
    targets = dataset.targets
    classes = isinstance(targets, Tensor) and targets.dtype == torch.int64
    numbers = isinstance(targets, Tensor) and not classes
    first: dict[bytes, int] = {}
    rows_of: dict[bytes, list[int]] = {}
    for row in keep.nonzero()[0].tolist():
        # Equal inputs with unequal numbers are measurements, no mistake.
        key = _key(dataset.inputs[row]) + (_key(targets[row]) if numbers and targets is not None else b"")
        repeated[row] = first.setdefault(key, row) != row
        rows_of.setdefault(key, []).append(row)
    if classes and targets is not None:
        for rows in rows_of.values():
            if len({int(targets[row]) for row in rows}) > 1:
                contradictory[rows] = True
    return repeated & ~contradictory, contradictory


def _key(row: Any) -> bytes:
    """A digest of one input or target; texts that differ in outer white space are equal."""
    if isinstance(row, Tensor):
        content = f"{row.dtype} {tuple(row.shape)}".encode() + row.contiguous().numpy().tobytes()
    else:
        content = json.dumps(row.strip() if isinstance(row, str) else row, sort_keys=True).encode()
    return hashlib.sha256(content).digest()


def _take(values: Any, rows: Tensor) -> Any:
    if values is None or isinstance(values, Tensor):
        return None if values is None else values[rows]
    return [values[row] for row in rows.tolist()]
