"""Row reader: reads a unit's rows, checks them, assigns them to splits, and encodes them for a net.

Train walk: read_tasks.py -> [row_reader.py] -> read_units.py
Works on columns of a batch. A row's split comes from a column if there is one, otherwise from a hash of its content:
equal rows are in the same split in whatever file they stand, and no index has to be kept.
"""
# Shapes: N rows of a batch, F features, K channels, H height, W width.

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.files.columns import Column, category_index, format_value, parse_column
from training.data.files.hashing import Hashes, combine_hashes, hash_values, mix_bits
from training.data.files.read_units import FileSource, ReadUnit
from training.data.files.row_location import SourceLocation
from training.errors import UserError
from training.schema import SPLITS, StrictModel


class RowReader(StrictModel):
    """How files become rows; plain values, which are sent to every read task.

    Attributes:
        source: the files.
        inputs: the columns of the features, of one text, or of the pixels.
        target: a label for classes, else a number.
        split: the column of each row's split; None where its hash decides.
        missing_policy: the recipe's `clean.missing`.
        test_fraction: share of all rows.
        validation_fraction: share of the other rows.
        seed: of the split.
    """

    source: FileSource
    inputs: tuple[Column, ...]
    target: Column
    split: Column | None = None
    missing_policy: Literal["refuse", "drop", "mean"]
    test_fraction: float
    validation_fraction: float
    seed: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns that are read."""
        return *self.inputs, self.target, *([self.split] if self.split else [])

    @property
    def is_text(self) -> bool:
        """Whether a row is a text."""
        return self.inputs[0].kind == "text"

    def read_rows(self, unit: ReadUnit) -> Iterator[tuple[pa.Table, int]]:
        """Read a unit; yields tables of checked rows, each with the number of rows dropped from it.

        Categories, labels and texts are strings, numbers float32 (NaN where one is missing), pixels bytes.

        Raises:
            UserError: a value is missing or not of its column's kind.
        """
        types = [pa.float64() if c.kind == "number" else pa.type_for_alias(c.stored_type) for c in self.columns]
        schema = pa.schema([(c.name, arrow_type) for c, arrow_type in zip(self.columns, types, strict=True)])
        for location, batch in self.source.read_batches(unit, schema):
            yield self._check_batch(batch, location)

    def assign_splits(self, table: pa.Table, input_hashes: Hashes) -> NDArray[np.uint8]:
        """Each row's index in SPLITS, by its own column or the hash of its inputs."""
        if self.split:
            indices: NDArray[np.uint8] = category_index(table[self.split.name], SPLITS).to_numpy().astype(np.uint8)
            return indices
        uniform = (mix_bits(input_hashes ^ mix_bits(np.uint64(self.seed))) >> np.uint64(11)) / 2.0**53
        held_out_fraction = self.test_fraction + (1 - self.test_fraction) * self.validation_fraction
        test, validation, train = map(SPLITS.index, ("test", "validation", "train"))
        conditions = [uniform < self.test_fraction, uniform < held_out_fraction]
        return np.select(conditions, [test, validation], train).astype(np.uint8)

    def hash_inputs(self, table: pa.Table) -> Hashes:
        """Hash the inputs of each row."""
        return combine_hashes([hash_values(column.kind, table[column.name]) for column in self.inputs])

    def hash_rows(self, table: pa.Table, input_hashes: Hashes) -> Hashes:
        """Hash each row, inputs and target."""
        return combine_hashes([input_hashes, hash_values(self.target.kind, table[self.target.name])])

    def encode_rows(self, table: pa.Table) -> dict[str, Any]:
        """Encode checked rows for a net; the categories must be known.

        Returns:
            "inputs": float32 (N, F), uint8 (N, K, H, W), or an Arrow column of texts; "targets": int64 or float32 (N,).

        Raises:
            UserError: a class is new since the scan.
        """
        targets = table[self.target.name]
        if self.target.categories is None:
            return {"inputs": self._encode_inputs(table), "targets": targets.to_numpy()}
        indices = category_index(targets, self.target.categories)
        if indices.null_count:
            new_class = targets.filter(pc.is_null(indices))[0].as_py()
            raise UserError(f"class {new_class!r} was added to the files after they were scanned; train again")
        return {"inputs": self._encode_inputs(table), "targets": indices.to_numpy().astype(np.int64)}

    def find_unseen(self, table: pa.Table) -> dict[str, NDArray[np.bool_]]:
        """By column of categories, which rows have one that the training rows do not have, bool (N,)."""
        unseen = {}
        for column in self.inputs:
            if column.categories is not None:
                is_unseen = pc.and_(
                    pc.is_valid(table[column.name]), pc.is_null(category_index(table[column.name], column.categories))
                )
                unseen[column.name] = is_unseen.to_numpy()
        return unseen

    def _encode_inputs(self, table: pa.Table) -> Any:
        first = self.inputs[0]
        if first.kind == "text":
            return table[first.name]
        if first.kind == "pixels":
            channels = 1 if self.source.mode == "L" else 3
            # Values of a fixed-size binary array are contiguous: the images, without a copy.
            array = table[first.name].combine_chunks()
            pixels = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * array.type.byte_width :]
            shape = (len(array), channels, self.source.height, self.source.width)
            return pixels[: np.prod(shape)].reshape(shape)
        features = [
            table[c.name] if c.categories is None else category_index(table[c.name], c.categories).cast(pa.float32())
            for c in self.inputs
        ]
        batches = pa.table(features, [c.name for c in self.inputs]).combine_chunks().to_batches()
        if not batches:
            return np.empty((0, len(features)), np.float32)
        return batches[0].to_tensor(null_to_nan=True, row_major=True).to_numpy()

    def _check_batch(self, batch: pa.RecordBatch, location: SourceLocation) -> tuple[pa.Table, int]:
        """Parse a batch and apply the policy for missing values; returns the rows kept and the number dropped."""
        parsed, keep = {}, np.ones(len(batch), bool)
        for column in self.columns:
            parsed[column.name], missing = parse_column(column, batch[column.name], location)
            if missing.any() and not self._allows_missing(column):
                index = int(missing.argmax())
                raise self._missing_error(column, batch[column.name][index].as_py(), index, location)
            if self.missing_policy == "drop":
                keep &= ~missing
        table = pa.table(parsed)
        return (table, 0) if keep.all() else (table.filter(pa.array(keep)), int((~keep).sum()))

    def _allows_missing(self, column: Column) -> bool:
        return self.missing_policy == "drop" or (self.missing_policy == "mean" and self._is_imputable(column))

    def _is_imputable(self, column: Column) -> bool:
        """Whether a missing value can be imputed: a number by the mean, a category by zeros in its one-hot encoding."""
        return column is not self.target and column.kind in ("number", "category")

    def _missing_error(self, column: Column, value: Any, index: int, location: SourceLocation) -> UserError:
        problem = "the value is missing" if value in (None, b"") else f"{format_value(value)} is missing"
        remedy = "correct it, or set clean.missing to drop (the row)"
        if self._is_imputable(column):
            remedy += " or mean (of the training rows)"
        return location.value_error(index, column.name, f"{problem}; {remedy}")
