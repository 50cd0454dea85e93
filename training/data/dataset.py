"""Dataset: rows in memory as their source returned them: texts, images, records.

Train walk: preprocessing.py -> [dataset.py]
Knows nothing of nets or Ray.
"""
# Shapes: N rows of the data set.

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from training.data.dataset_validation import validate_dataset
from training.data.row_sequences import is_of_table_library, round_numbers, stack_numbers, to_rows
from training.errors import UserError
from training.recipe.load import import_path
from training.recipe.renamed import renamed_hint
from training.recipe.spec import Data
from training.schema import InputSchema


@dataclass(frozen=True)
class Dataset:
    """Rows that fit in memory, and what a model card states about them.

    Attributes:
        inputs: one per row: a tensor of shape (N, ...) in the type that a caller sends (uint8 pixels, float32
            features), or a list of texts, of float32 series (T, F), or of records; numpy arrays and columns of pandas,
            polars and Arrow are taken as such, by position.
        targets: one per row: int64 (N,), indices of `labels`, for classes; float32 (N,) for numbers; lists of spans
            (start, end, label) in characters; float32 (N, M, 5) of x1, y1, x2, y2, label index for boxes, padded with
            rows of -1; None where the input is its own target.
        input_schema: the JSON form of one row; None for text, whose tokenizer is fitted after the split.
        labels: names of the classes, span labels or box labels, in order; for a number, its one name.
        source: origin of the rows.
        license: license of the rows.
        test_index: int64, the rows of the test split; None for a random split.
        dropped_rows: how many rows cleaning dropped, by reason.
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
            digest.update(hash_row(self.inputs[index]))
            digest.update(hash_row(None if self.targets is None else self.targets[index]))
        return digest.hexdigest()

    def select(self, indices: Tensor) -> "Dataset":
        """Select rows, in this order; `test_index` is renumbered."""
        test_index = None
        if self.test_index is not None:
            test_index = torch.isin(indices, self.test_index).nonzero().flatten()
        return replace(
            self,
            inputs=_select_values(self.inputs, indices),
            targets=_select_values(self.targets, indices),
            test_index=test_index,
        )


def load_dataset(data: Data) -> Dataset:
    """Call the recipe's source and check what it returned.

    A source returns a Dataset, or an object with three methods: `__len__`, `__getitem__` (row index to input and
    target) and `info` (the other attributes of a Dataset, as a dict).

    Raises:
        UserError: it returned neither, or inputs, targets and labels do not match.
    """
    try:
        dataset = import_path(data.source)(**data.args)
    except TypeError as error:
        if hint := renamed_hint(error):
            raise UserError(f"{data.source}: {error}{hint}") from error
        raise
    # A pandas frame has methods of these names.
    has_methods = all(hasattr(dataset, method) for method in ("__len__", "__getitem__", "info"))
    if has_methods and not is_of_table_library(dataset):
        dataset = _collect_rows(dataset)
    if not isinstance(dataset, Dataset):
        hint = "; 'about' is called 'info' now" if hasattr(dataset, "about") else ""
        raise UserError(
            f"{data.source} returned a {type(dataset).__name__}; return a training.Dataset, or an object with "
            f"__len__, __getitem__ and info{hint}"
        )
    dataset = _convert_rows(dataset, data.source)
    validate_dataset(dataset, data.source)
    return dataset


def _collect_rows(rows: Any) -> Dataset:
    """Convert an object with the three methods to a Dataset; tensors of one shape are stacked."""
    name = type(rows).__name__
    if not len(rows):
        raise UserError(f"{name}: no rows")
    inputs, targets = zip(*(rows[index] for index in range(len(rows))), strict=True)
    inputs = _stack_rows(inputs, f"{name}: the inputs")
    try:
        return Dataset(
            inputs=inputs, targets=None if all(target is None for target in targets) else targets, **rows.info()
        )
    except TypeError as error:
        raise UserError(f"{name}.info(): {error}; return attributes of a Dataset{renamed_hint(error)}") from None


def _convert_rows(dataset: Dataset, source: str) -> Dataset:
    """Convert inputs and targets of any library to tensors or lists, in the order of their rows."""
    targets, test_index = dataset.targets, dataset.test_index
    return replace(
        dataset,
        inputs=to_rows(dataset.inputs, f"{source}: the inputs"),
        labels=tuple(to_rows(dataset.labels, f"{source}: the labels")),
        targets=None if targets is None else _convert_targets(targets, f"{source}: the targets"),
        test_index=None if test_index is None else _stack_rows(test_index, f"{source}: the test_index"),
    )


def _convert_targets(targets: Any, what: str) -> Any:
    """Make the numbers of another library int64 or float32, if that holds them; a tensor stays what it is."""
    rows = _stack_rows(targets, what)
    if isinstance(targets, Tensor) or not isinstance(rows, Tensor) or rows.ndim != 1:
        return rows
    return round_numbers(rows.double(), what) if rows.is_floating_point() else rows.long()


def _stack_rows(values: Any, what: str) -> Any:
    """Make numbers, or tensors of one shape, one tensor; others a list."""
    rows = to_rows(values, what)
    if isinstance(rows, Tensor) or not rows or not isinstance(first := rows[0], Tensor):
        return stack_numbers(rows, what)
    has_one_form = all(isinstance(r, Tensor) and r.shape == first.shape and r.dtype == first.dtype for r in rows)
    return torch.stack(rows) if has_one_form else rows


def hash_row(row: Any) -> bytes:
    """sha256 of one input or target; surrounding whitespace of a text is ignored."""
    if isinstance(row, Tensor):
        content = f"{row.dtype} {tuple(row.shape)}".encode() + row.contiguous().numpy().tobytes()
    else:
        content = json.dumps(row.strip() if isinstance(row, str) else row, sort_keys=True).encode()
    return hashlib.sha256(content).digest()


def _select_values(values: Any, indices: Tensor) -> Any:
    if values is None or isinstance(values, Tensor):
        return None if values is None else values[indices]
    return [values[index] for index in indices.tolist()]
