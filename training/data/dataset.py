"""Data: what a data set is, and how it is cleaned and divided without leaking.

Train walk: run.py -> loop.py -> [data.py] -> prepare.py
Rows are still as their source gave them: texts, pictures, records. Knows nothing of nets or Ray.
"""
# Shapes: N rows of the set.

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from training.errors import UserError
from training.recipe.load import import_path
from training.recipe.spec import Data
from training.schema import InputSchema


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
    input_schema: InputSchema | None = None
    source: str = ""
    license: str = ""
    test_index: Tensor | None = None
    dropped_rows: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def fingerprint(self) -> str:
        """sha256 over every row's input and target, in order: the same rows, the same fingerprint."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(row_digest(self.inputs[index]))
            digest.update(row_digest(None if self.targets is None else self.targets[index]))
        return digest.hexdigest()

    def select(self, rows: Tensor) -> "Dataset":
        """The rows of these numbers, in this order; those held out keep their place among them."""
        held = None
        if self.test_index is not None:
            held = torch.isin(rows, self.test_index).nonzero().flatten()
        return replace(
            self, inputs=_select_values(self.inputs, rows), targets=_select_values(self.targets, rows), test_index=held
        )


def load_dataset(data: Data) -> Dataset:
    """Call the recipe's source and check what it returned.

    A source returns a Dataset, or an object with three methods: `__len__`, `__getitem__` (row number to input and
    target) and `about` (the other attributes of a Dataset, as a dict).

    Raises:
        Mistake: it returned neither, or its rows do not fit each other.
    """
    found = import_path(data.source)(**data.args)
    if all(hasattr(found, method) for method in ("__len__", "__getitem__", "about")):
        found = _collect_rows(found)
    if not isinstance(found, Dataset):
        raise UserError(
            f"{data.source} returned a {type(found).__name__}; return a training.data.dataset.Dataset, or an object with "
            "__len__, __getitem__ and about"
        )
    _validate(found, data.source)
    return found


def _collect_rows(rows: Any) -> Dataset:
    """Turn an object with the three methods into a Dataset; what is all tensors of one shape is stacked."""
    inputs, targets = zip(*(rows[index] for index in range(len(rows))), strict=True)
    about = dict(rows.about())
    try:
        return Dataset(
            inputs=_stack_values(inputs), targets=None if targets[0] is None else _stack_values(targets), **about
        )
    except TypeError as error:
        raise UserError(f"{type(rows).__name__}.about(): {error}; give the attributes of a Dataset") from None


def _stack_values(values: Sequence[Any]) -> Tensor | list[Any]:
    first = values[0]
    if isinstance(first, Tensor) and all(value.shape == first.shape for value in values):
        return torch.stack(list(values))
    if isinstance(first, bool | int):
        return torch.tensor(values, dtype=torch.int64)
    if isinstance(first, float):
        return torch.tensor(values, dtype=torch.float32)
    return list(values)


def _validate(dataset: Dataset, source: str) -> None:
    targets = dataset.targets
    if not len(dataset):
        raise UserError(f"{source}: no rows")
    if targets is not None and len(dataset.inputs) != len(targets):
        raise UserError(f"{source}: {len(dataset.inputs)} inputs, {len(targets)} targets; give one each")
    if not isinstance(targets, Tensor):
        return
    if targets.dtype == torch.int64 and targets.ndim == 1:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(dataset.labels):
            raise UserError(f"{source}: targets run {low}..{high} over {len(dataset.labels)} labels; name every class")
    elif targets.dtype != torch.float32:
        raise UserError(f"{source}: targets are {targets.dtype}; make classes int64 of shape (N,), numbers float32")
    elif not torch.isfinite(targets).all():
        row = int((~torch.isfinite(targets.reshape(len(targets), -1))).any(1).nonzero()[0])
        raise UserError(f"{source}: the target of row {row} is not finite; drop such rows")


def row_digest(row: Any) -> bytes:
    """A digest of one input or target; texts that differ in outer white space are equal."""
    if isinstance(row, Tensor):
        content = f"{row.dtype} {tuple(row.shape)}".encode() + row.contiguous().numpy().tobytes()
    else:
        content = json.dumps(row.strip() if isinstance(row, str) else row, sort_keys=True).encode()
    return hashlib.sha256(content).digest()


def _select_values(values: Any, rows: Tensor) -> Any:
    if values is None or isinstance(values, Tensor):
        return None if values is None else values[rows]
    return [values[row] for row in rows.tolist()]
