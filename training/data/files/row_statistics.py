"""Row statistics: counts, categories, fingerprint and samples of rows; those of several tasks merge in any order."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.data.files.hashing import sample_by_hash
from training.data.files.row_reader import RowReader
from training.errors import UserError
from training.schema import SPLITS, StrictModel

# Limit of classes, and of categories of a feature.
MAX_CATEGORIES = 1000
HASH_COLUMN = "#hash"
CHUNK_BYTES = 2**22
_NUM_HASHES = 2**64


class SampleLimits(StrictModel):
    """How many rows of each split are kept.

    Attributes:
        max_rows: of a split.
        max_bytes: of a split.
        fractions: share of all rows that each split is expected to have.
        expected_rows: of all splits together; None if unknown before reading.
    """

    max_rows: int
    max_bytes: int
    fractions: tuple[float, ...]
    expected_rows: int | None

    def hash_threshold(self, split_index: int) -> int:
        """A row is a candidate for the sample if its hash is below this, so that tasks send few rows too many."""
        if self.expected_rows is None:
            return _NUM_HASHES
        # Twice the expected share: that fewer candidates come than `max_rows` is out of the question.
        share = 2 * self.max_rows / max(1.0, self.expected_rows * self.fractions[split_index])
        return min(_NUM_HASHES, int(share * _NUM_HASHES))


class RowStatistics:
    """Statistics of the rows read so far.

    Attributes:
        counts: rows of each split, and dropped ones.
        categories: by column; those of a feature are the training rows', as all that is fitted, those of the target
            every row's, so that no score leaves out a class that training missed.
        known_numbers: columns of numbers of which at least one is not missing.
    """

    def __init__(self, reader: RowReader, limits: SampleLimits) -> None:
        self._reader, self._limits = reader, limits
        self.counts: Counter[str] = Counter()
        self.fingerprint = 0
        self.categories: dict[str, set[str]] = {
            column.name: set() for column in reader.columns if column.kind in ("category", "label")
        }
        self.known_numbers: set[str] = set()
        self.samples: dict[str, pa.Table] = {}

    def add_rows(self, table: pa.Table, dropped: int) -> None:
        """Add checked rows, and how many were dropped from among them.

        Raises:
            UserError: a column has more than MAX_CATEGORIES categories.
        """
        self.counts["dropped"] += dropped
        input_hashes = self._reader.hash_inputs(table)
        hashes = self._reader.hash_rows(table, input_hashes)
        split_indices = self._reader.assign_splits(table, input_hashes)
        self.fingerprint = (self.fingerprint + int(hashes.sum())) % _NUM_HASHES
        training_rows = table.filter(pa.array(split_indices == SPLITS.index("train")))
        for name, categories in self.categories.items():
            rows = table if name == self._reader.target.name else training_rows
            categories |= set(pc.unique(rows[name]).drop_null().to_pylist())
        self._check_categories()
        numbers = {column.name for column in self._reader.inputs if column.kind == "number"}
        for name in numbers - self.known_numbers:
            if np.isfinite(table[name].to_numpy()).any():
                self.known_numbers.add(name)
        table = table.append_column(HASH_COLUMN, pa.array(hashes))
        for index, split in enumerate(SPLITS):
            in_split = split_indices == index
            self.counts[split] += int(in_split.sum())
            candidates = in_split & (hashes <= np.uint64(self._limits.hash_threshold(index) - 1))
            if candidates.any():
                self._add_sample(split, table.filter(pa.array(candidates)))

    def to_chunks(self) -> Iterator[dict[str, Any]]:
        """Serialize the statistics as rows of a bounded size."""
        categories = {name: sorted(values) for name, values in self.categories.items()}
        summary = {
            "counts": dict(self.counts),
            "fingerprint": self.fingerprint,
            "categories": categories,
            "known_numbers": sorted(self.known_numbers),
        }
        yield {"summary": json.dumps(summary), "split": "", "rows": b""}
        for split in self.samples:
            table = self._limit_sample(self.samples[split])
            chunk_rows = max(1, CHUNK_BYTES // max(1, table.nbytes // max(1, len(table))))
            for start in range(0, len(table), chunk_rows):
                yield {"summary": "", "split": split, "rows": _serialize_table(table.slice(start, chunk_rows))}

    def merge_chunk(self, chunk: Mapping[str, Any]) -> None:
        """Merge a chunk of other statistics.

        Raises:
            UserError: a column has more than MAX_CATEGORIES categories.
        """
        if chunk["split"]:
            self._add_sample(chunk["split"], pa.ipc.open_stream(chunk["rows"]).read_all())
            return
        summary = json.loads(chunk["summary"])
        self.counts.update(summary["counts"])
        self.fingerprint = (self.fingerprint + summary["fingerprint"]) % _NUM_HASHES
        for name, categories in summary["categories"].items():
            self.categories[name] |= set(categories)
        self.known_numbers |= set(summary["known_numbers"])
        self._check_categories()

    def sample_table(self, split: str) -> pa.Table:
        """The sample of a split."""
        return self._limit_sample(self.samples[split]).drop_columns([HASH_COLUMN])

    def _add_sample(self, split: str, table: pa.Table) -> None:
        sample = pa.concat_tables([self.samples[split], table]) if split in self.samples else table
        # Limiting sorts the sample: too slow for every batch.
        is_large = len(sample) > 2 * self._limits.max_rows or sample.nbytes > 2 * self._limits.max_bytes
        self.samples[split] = self._limit_sample(sample) if is_large else sample

    def _limit_sample(self, table: pa.Table) -> pa.Table:
        return sample_by_hash(table, HASH_COLUMN, self._limits.max_rows, self._limits.max_bytes)

    def _check_categories(self) -> None:
        for name, categories in self.categories.items():
            if len(categories) <= MAX_CATEGORIES:
                continue
            problem = f"column {name!r} has more than {MAX_CATEGORIES} distinct values"
            if name == self._reader.target.name:
                raise UserError(f"{problem}, too many for classes; name another data.target, or train a regression")
            raise UserError(f"{problem}, too many for a category; name it in data.exclude")


def _serialize_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
