"""Passes: what a task does with the units that it is given: count before training, hand on rows in every epoch.

Train walk: survey.py -> [passes.py] -> columns.py
Runs inside Ray Data's tasks; knows neither torch nor Ray.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.data.files.columns import RowReader, sample_by_hash
from training.data.files.source import ReadUnit
from training.errors import UserError
from training.schema import SPLITS, StrictModel

# So many classes, or levels of a category, at most.
MAX_CATEGORIES = 1000
# As training itself: where a machine also serves, this is what yields.
NICENESS = 10
HASH_COLUMN = "#hash"
CHUNK_BYTES = 2**22
_ALL = 2**64


class SampleLimits(StrictModel):
    """How many rows of a part are kept: at most so many, and so many bytes.

    Attributes:
        rows: most rows.
        bytes_: most bytes.
        shares: about what share of all rows each part has.
        expected: rows of all parts together; None where that is not known before they are read.
    """

    max_rows: int
    max_bytes: int
    fractions: tuple[float, ...]
    expected_rows: int | None

    def hash_threshold(self, part: int) -> int:
        """Rows of a part are wanted only if their hash is below this: so not every task has to send its own sample."""
        if self.expected_rows is None:
            return _ALL
        # Twice as many as are wanted: that fewer come than that is out of the question.
        return min(_ALL, int(2 * self.max_rows / max(1.0, self.expected_rows * self.fractions[part]) * _ALL))


class RowStatistics:
    """What is known of the rows that were read so far; tallies of several tasks add up, in any order."""

    def __init__(self, reader: RowReader, sample: SampleLimits) -> None:
        self._reader, self._sample = reader, sample
        self.counts: Counter[str] = Counter()
        self.fingerprint = 0
        self.categories: dict[str, set[str]] = {
            c.name: set() for c in reader.columns if c.kind in ("category", "label")
        }
        self.samples: dict[str, pa.Table] = {}

    def add_rows(self, table: pa.Table, dropped: int) -> None:
        """Count checked rows, and how many were dropped beside them."""
        self.counts["dropped"] += dropped
        inputs = self._reader.hash_inputs(table)
        hashes, parts = self._reader.hash_rows(table, inputs), self._reader.assign_splits(inputs)
        self.fingerprint = (self.fingerprint + int(hashes.sum())) % _ALL
        for name, known in self.categories.items():
            known |= set(pc.unique(table[name]).drop_null().to_pylist())
        self._check_categories()
        table = table.append_column(HASH_COLUMN, pa.array(hashes))
        for number, part in enumerate(SPLITS):
            self.counts[part] += int((parts == number).sum())
            wanted = (parts == number) & (hashes <= np.uint64(self._sample.hash_threshold(number) - 1))
            if wanted.any():
                self._add_sample(part, table.filter(pa.array(wanted)))

    def to_chunks(self) -> Iterator[dict[str, Any]]:
        """Say all of it in rows that are not too large each."""
        levels = {name: sorted(known) for name, known in self.categories.items()}
        said = {"counts": dict(self.counts), "fingerprint": self.fingerprint, "categories": levels}
        yield {"said": json.dumps(said), "part": "", "rows": b""}
        for part in self.samples:
            table = self._limit_sample(self.samples[part])
            at_once = max(1, CHUNK_BYTES // max(1, table.nbytes // max(1, len(table))))
            for start in range(0, len(table), at_once):
                yield {"said": "", "part": part, "rows": _serialize_table(table.slice(start, at_once))}

    def merge_chunk(self, piece: Mapping[str, Any]) -> None:
        """Add a piece of another tally."""
        if piece["part"]:
            self._add_sample(piece["part"], pa.ipc.open_stream(piece["rows"]).read_all())
            return
        said = json.loads(piece["said"])
        self.counts.update(said["counts"])
        self.fingerprint = (self.fingerprint + said["fingerprint"]) % _ALL
        for name, known in said["categories"].items():
            self.categories[name] |= set(known)
        self._check_categories()

    def sample_table(self, part: str) -> pa.Table:
        """The rows of a part that are kept."""
        return self._limit_sample(self.samples[part]).drop_columns([HASH_COLUMN])

    def _add_sample(self, part: str, table: pa.Table) -> None:
        both = pa.concat_tables([self.samples[part], table]) if part in self.samples else table
        # Cutting sorts: not for every batch.
        much = len(both) > 2 * self._sample.max_rows or both.nbytes > 2 * self._sample.max_bytes
        self.samples[part] = self._limit_sample(both) if much else both

    def _limit_sample(self, table: pa.Table) -> pa.Table:
        return sample_by_hash(table, HASH_COLUMN, self._sample.max_rows, self._sample.max_bytes)

    def _check_categories(self) -> None:
        for name, known in self.categories.items():
            if len(known) <= MAX_CATEGORIES:
                continue
            what = f"column {name!r} holds more than {MAX_CATEGORIES} different texts"
            if name == self._reader.target.name:
                raise UserError(f"{what}, too many for classes; name another data.target, or learn it as a number")
            raise UserError(f"{what}, too many for a category; leave it out: name others in data.features")


def scan_units(batch: Mapping[str, Any], *, reader: RowReader, sample: SampleLimits) -> Iterator[dict[str, list[Any]]]:
    """Before training: count and sample the rows of some units."""
    os.nice(max(0, NICENESS - os.nice(0)))
    tally = RowStatistics(reader, sample)
    for unit in batch["unit"]:
        for table, dropped in reader.read_rows(ReadUnit.model_validate_json(unit)):
            tally.add_rows(table, dropped)
        release_memory()
    for piece in tally.to_chunks():
        yield {name: [value] for name, value in piece.items()}
    del tally
    release_memory()


def read_training_rows(batch: Mapping[str, Any], *, reader: RowReader) -> Iterator[Any]:
    """In an epoch: hand on the training rows of some units, as `Reader.encode` has them."""
    os.nice(max(0, NICENESS - os.nice(0)))
    for unit in batch["unit"]:
        for table, _ in reader.read_rows(ReadUnit.model_validate_json(unit)):
            wanted = reader.assign_splits(reader.hash_inputs(table)) == SPLITS.index("train")
            if not wanted.any():
                continue
            rows = reader.encode_rows(table)
            if reader.is_text:
                yield pa.table(rows).filter(pa.array(wanted))
            else:
                yield {name: values[wanted] for name, values in rows.items()}
        release_memory()


def release_memory() -> None:
    """Give memory back: Arrow would keep it for its next use, in every process that has ever read."""
    pa.default_memory_pool().release_unused()


def _serialize_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written
