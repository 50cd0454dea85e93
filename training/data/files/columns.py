"""Columns: what a row must hold, checked; which part it belongs to; and the numbers that a net gets for it.

Train walk: formats.py -> [columns.py] -> survey.py, training.worker.feed
Everything works on whole columns of a batch. A row's part follows from its content alone, by a hash: equal rows stand
in the same part wherever they are, and nothing has to be kept to know it.
"""
# Shapes: N rows of a batch, F features, K channels, H height, W width.

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from training.data.files.source import FileSource, ReadUnit
from training.data.files.source_location import SourceLocation
from training.errors import UserError
from training.schema import StrictModel

Hashes = NDArray[np.uint64]
# A label is whatever the target holds, written out.
Kind = Literal["number", "category", "label", "text", "pixels"]

# How a number that is missing is written, beside nothing at all.
_MISSING = pa.array(csv.ConvertOptions().null_values)
_MENDED = "mend it, or set clean.missing to drop (the row){mean}"


class Column(StrictModel):
    """One column that is read; `stored` is its type in the first file, and levels are None until they are known."""

    name: str
    kind: Kind
    stored_type: str = "string"
    categories: tuple[str, ...] | None = None


class RowReader(StrictModel):
    """How files become rows; plain values, which travel to every task that reads.

    Attributes:
        source: where the files are.
        inputs: what a row is told by: features of a table, or one text, or one picture.
        target: a label for classes, a number else.
        missing: as the recipe's `clean.missing`.
        test: share of the rows.
        validation: share of the rest.
        seed: of the division.
    """

    source: FileSource
    inputs: tuple[Column, ...]
    target: Column
    missing_policy: Literal["refuse", "drop", "mean"]
    test_fraction: float
    validation_fraction: float
    seed: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """All that are read."""
        return *self.inputs, self.target

    @property
    def is_text(self) -> bool:
        """Whether a row is a text."""
        return self.inputs[0].kind == "text"

    def read_rows(self, unit: ReadUnit) -> Iterator[tuple[pa.Table, int]]:
        """Read a unit; yields checked rows, and how many beside them were dropped.

        Categories and texts are strings, numbers float32 (NaN where one is missing), pixels bytes.

        Raises:
            Mistake: a value is not what its column holds.
        """
        types = [pa.float64() if c.kind == "number" else pa.type_for_alias(c.stored_type) for c in self.columns]
        schema = pa.schema([(c.name, type_) for c, type_ in zip(self.columns, types, strict=True)])
        for place, batch in self.source.read_batches(unit, schema):
            yield self._check_batch(batch, place)

    def assign_splits(self, inputs: Hashes) -> NDArray[np.uint8]:
        """The part of each row, as its place in PARTS, by the hash of its inputs."""
        share = (_splitmix64(inputs ^ _splitmix64(np.uint64(self.seed))) >> np.uint64(11)) / 2.0**53
        held = self.test_fraction + (1 - self.test_fraction) * self.validation_fraction
        return np.select([share < self.test_fraction, share < held], [2, 1], 0).astype(np.uint8)

    def hash_inputs(self, table: pa.Table) -> Hashes:
        """A hash of what each row is told by."""
        return _combine_hashes([_hash_values(column.kind, table[column.name]) for column in self.inputs])

    def hash_rows(self, table: pa.Table, inputs: Hashes) -> Hashes:
        """A hash of each row with its target."""
        return _combine_hashes([inputs, _hash_values(self.target.kind, table[self.target.name])])

    def encode_rows(self, table: pa.Table) -> dict[str, Any]:
        """Turn checked rows into what a net is given; every category must have its levels.

        Returns:
            "inputs": float32 (N, F), or uint8 (N, K, H, W), or an Arrow column of texts; "targets": int64 or float32
            (N,).
        """
        targets = table[self.target.name]
        if self.target.categories is None:
            return {"inputs": self._encode_inputs(table), "targets": targets.to_numpy()}
        numbered = _category_index(targets, self.target.categories)
        if numbered.null_count:
            odd = targets.filter(pc.is_null(numbered))[0]
            raise UserError(f"class {odd} has come into the files since they were surveyed; train again")
        return {"inputs": self._encode_inputs(table), "targets": numbered.to_numpy().astype(np.int64)}

    def _encode_inputs(self, table: pa.Table) -> Any:
        first = self.inputs[0]
        if first.kind == "text":
            return table[first.name]
        if first.kind == "pixels":
            channels = 1 if self.source.mode == "L" else 3
            # Bytes of one width lie one after the other, and so do the pictures that they are.
            raw = table[first.name].combine_chunks()
            flat = np.frombuffer(raw.buffers()[1], np.uint8)[raw.offset * raw.type.byte_width :]
            size = (len(raw), channels, self.source.height, self.source.width)
            return flat[: np.prod(size)].reshape(size)
        columns = [
            table[c.name] if c.categories is None else _category_index(table[c.name], c.categories).cast(pa.float32())
            for c in self.inputs
        ]
        together = pa.table(columns, [c.name for c in self.inputs]).combine_chunks().to_batches()
        if not together:
            return np.empty((0, len(columns)), np.float32)
        return together[0].to_tensor(null_to_nan=True, row_major=True).to_numpy()

    def _check_batch(self, batch: pa.RecordBatch, place: SourceLocation) -> tuple[pa.Table, int]:
        found, keep = {}, np.ones(len(batch), bool)
        for column in self.columns:
            values, missing = _parse_column(column, batch[column.name], place)
            # The mean of what goes before stands for a number, and no level for a category; for the rest nothing can.
            filled = column is not self.target and column.kind in ("number", "category")
            if missing.any() and self.missing_policy != "drop" and not (self.missing_policy == "mean" and filled):
                index = int(missing.argmax())
                mean = " or mean (of the training rows)" * filled
                value = batch[column.name][index].as_py()
                said = (
                    "the value is missing"
                    if value in (None, b"")
                    else f"{_format_value(value)} is missing or not finite"
                )
                raise place.value_error(index, column.name, f"{said}; {_MENDED.format(mean=mean)}")
            if self.missing_policy == "drop":
                keep &= ~missing
            found[column.name] = values
        table = pa.table(found)
        return (table, 0) if keep.all() else (table.filter(pa.array(keep)), int((~keep).sum()))


def infer_columns(schema: pa.Schema, names: Sequence[str], file: str) -> tuple[Column, ...]:
    """Tell numbers from categories by the types of the first file.

    Raises:
        Mistake: there is no such column, or it holds what no feature can be.
    """
    SourceLocation(file=file).require_columns(names, schema.names)
    found = []
    for name in names:
        type_ = schema.field(name).type
        if not _is_numeric(type_) and not _is_text(type_):
            raise UserError(
                f"{file}, column {name!r} holds {type_}, which no feature can be; name others: data.features"
            )
        kind: Kind = "number" if _is_numeric(type_) else "category"
        stored = str(type_) if str(type_) in ("int64", "double", "bool") else "string"
        found.append(Column(name=name, kind=kind, stored_type=stored))
    return tuple(found)


def sort_categories(names: set[str]) -> tuple[str, ...]:
    """Names of classes or levels: by size where all are whole numbers, else by letters."""
    whole = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if whole else None))


def sample_by_hash(table: pa.Table, by: str, rows: int, most_bytes: int) -> pa.Table:
    """The rows whose hash is smallest, no more than so many rows and bytes: a sample that no order of rows changes."""
    order = np.argsort(table[by].to_numpy(), kind="stable")
    fits = np.searchsorted(np.cumsum(_row_bytes(table)[order]), most_bytes, side="right")
    return table.take(pa.array(order[: min(rows, int(fits))]))


def _row_bytes(table: pa.Table) -> NDArray[np.int64]:
    """Bytes of each row."""
    total = np.zeros(len(table), np.int64)
    for values in table.columns:
        total += (
            pc.fill_null(pc.binary_length(values), 0).to_numpy()
            if _is_text(values.type)
            else values.type.bit_width // 8
        )
    return total


def _category_index(texts: Any, levels: tuple[str, ...]) -> Any:
    """Each text's place among the levels; null where it is not among them."""
    return pc.index_in(texts, pa.array(levels))


def _parse_column(column: Column, values: Any, place: SourceLocation) -> tuple[Any, NDArray[np.bool_]]:
    """A column's values in the type that `read` promises, and which of them are missing."""
    if column.kind == "pixels":
        return values, np.zeros(len(values), bool)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if column.kind == "number":
        numbers = _parse_numbers(column, values, place)
        missing = ~np.isfinite(numbers)
        # -0 and 0 are one number, and so are all the ways not to be one.
        numbers = numbers + np.float32(0)
        numbers[missing] = np.nan
        return pa.array(numbers), missing
    texts = _parse_strings(column, values, place)
    if column.kind != "text":
        texts = pc.utf8_trim_whitespace(texts)
        texts = pc.if_else(pc.equal(texts, ""), None, texts)
    return texts, pc.is_null(texts).to_numpy(zero_copy_only=False)


def _parse_numbers(column: Column, values: Any, place: SourceLocation) -> NDArray[np.float32]:
    if _is_text(values.type):
        values = pc.utf8_trim_whitespace(_parse_strings(column, values, place))
        values = pc.if_else(pc.is_in(values, _MISSING), None, values)
        values = _cast(column, values, pa.float64(), place, "is no number")
    elif pa.types.is_decimal(values.type):
        # As a decimal in a text: the nearest double, then the nearest float.
        values = pc.cast(values, pa.float64())
    elif not _is_numeric(values.type):
        raise place.value_error(0, column.name, f"{values.type} is no number")
    found: NDArray[np.float32] = pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _parse_strings(column: Column, values: Any, place: SourceLocation) -> Any:
    if not _is_text(values.type) and not (column.kind == "label" and _is_numeric(values.type)):
        raise place.value_error(0, column.name, f"{values.type} is no text, as it is in the first file")
    return _cast(column, values, pa.string(), place, "is not UTF-8")


def _cast(column: Column, values: Any, type_: pa.DataType, place: SourceLocation, said: str) -> Any:
    try:
        return pc.cast(values, type_)
    except pa.ArrowInvalid:
        for index, value in enumerate(values):
            try:
                pc.cast(value, type_)
            except pa.ArrowInvalid:
                raise place.value_error(index, column.name, f"{_format_value(value.as_py())} {said}; mend it") from None
        raise


def _format_value(value: Any) -> str:
    return f"{value.decode(errors='replace') if isinstance(value, bytes) else value!r:.80}"


def _is_numeric(type_: pa.DataType) -> bool:
    """Whether a type is a number; a column without any value may become one."""
    t = pa.types
    return any(test(type_) for test in (t.is_integer, t.is_floating, t.is_decimal, t.is_null))


def _is_text(type_: pa.DataType) -> bool:
    """Whether a type is written out; so are truth values."""
    t = pa.types
    if t.is_dictionary(type_):
        return _is_text(type_.value_type)
    return any(test(type_) for test in (t.is_string, t.is_large_string, t.is_string_view, t.is_binary, t.is_boolean))


def _hash_values(kind: Kind, values: Any) -> Hashes:
    """64 bits of each value; a text counts without the white space around it."""
    if kind == "number":
        return np.asarray(values.to_numpy()).view(np.uint32).astype(np.uint64)
    if kind in ("category", "label"):
        coded = values.combine_chunks().dictionary_encode()
        levels = np.array([_hash_bytes(level.encode()) for level in coded.dictionary.to_pylist()] + [0], np.uint64)
        found: Hashes = levels[pc.fill_null(coded.indices, len(levels) - 1).to_numpy()]
        return found
    trim = bytes.strip if kind == "text" else bytes
    return np.array([_hash_bytes(trim(v.as_buffer().to_pybytes())) for v in values], np.uint64)


def _hash_bytes(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _combine_hashes(columns: list[Hashes]) -> Hashes:
    """One hash of several, by multilinear hashing (Lemire, Kaser, 2014): sum of c_i x_i modulo 2^64, then mixed."""
    total = np.zeros(len(columns[0]), np.uint64)
    for factor, column in zip(_hash_factors(len(columns)), columns, strict=True):
        total += factor * column
    found: Hashes = _splitmix64(total)
    return found


@lru_cache(maxsize=8)
def _hash_factors(count: int) -> Hashes:
    """An odd number for each column."""
    found: Hashes = _splitmix64(np.arange(1, count + 1, dtype=np.uint64)) | np.uint64(1)
    return found


def _splitmix64(x: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of x moves every bit of the result."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
