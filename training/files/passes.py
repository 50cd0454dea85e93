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

from training.closed import Closed
from training.errors import Mistake
from training.files.columns import PARTS, Reader, smallest
from training.files.source import Unit

# So many classes, or levels of a category, at most.
MOST_LEVELS = 1000
# As training itself: where a machine also serves, this is what yields.
NICENESS = 10
HASH = "#hash"
PIECE_BYTES = 2**22
_ALL = 2**64


class Sample(Closed):
    """How many rows of a part are kept: at most so many, and so many bytes.

    Attributes:
        rows: most rows.
        bytes_: most bytes.
        shares: about what share of all rows each part has.
        expected: rows of all parts together; None where that is not known before they are read.
    """

    rows: int
    bytes_: int
    shares: tuple[float, ...]
    expected: int | None

    def below(self, part: int) -> int:
        """Rows of a part are wanted only if their hash is below this: so not every task has to send its own sample."""
        if self.expected is None:
            return _ALL
        # Twice as many as are wanted: that fewer come than that is out of the question.
        return min(_ALL, int(2 * self.rows / max(1.0, self.expected * self.shares[part]) * _ALL))


class Tally:
    """What is known of the rows that were read so far; tallies of several tasks add up, in any order."""

    def __init__(self, reader: Reader, sample: Sample) -> None:
        self._reader, self._sample = reader, sample
        self.counts: Counter[str] = Counter()
        self.fingerprint = 0
        self.levels: dict[str, set[str]] = {c.name: set() for c in reader.columns if c.kind in ("category", "label")}
        self.kept: dict[str, pa.Table] = {}

    def add(self, table: pa.Table, dropped: int) -> None:
        """Count checked rows, and how many were dropped beside them."""
        self.counts["dropped"] += dropped
        inputs = self._reader.inputs_hash(table)
        hashes, parts = self._reader.row_hash(table, inputs), self._reader.parts(inputs)
        self.fingerprint = (self.fingerprint + int(hashes.sum())) % _ALL
        for name, known in self.levels.items():
            known |= set(pc.unique(table[name]).drop_null().to_pylist())
        self._check_levels()
        table = table.append_column(HASH, pa.array(hashes))
        for number, part in enumerate(PARTS):
            self.counts[part] += int((parts == number).sum())
            wanted = (parts == number) & (hashes <= np.uint64(self._sample.below(number) - 1))
            if wanted.any():
                self._keep(part, table.filter(pa.array(wanted)))

    def pieces(self) -> Iterator[dict[str, Any]]:
        """Say all of it in rows that are not too large each."""
        levels = {name: sorted(known) for name, known in self.levels.items()}
        said = {"counts": dict(self.counts), "fingerprint": self.fingerprint, "levels": levels}
        yield {"said": json.dumps(said), "part": "", "rows": b""}
        for part in self.kept:
            table = self._cut(self.kept[part])
            at_once = max(1, PIECE_BYTES // max(1, table.nbytes // max(1, len(table))))
            for start in range(0, len(table), at_once):
                yield {"said": "", "part": part, "rows": _written(table.slice(start, at_once))}

    def take(self, piece: Mapping[str, Any]) -> None:
        """Add a piece of another tally."""
        if piece["part"]:
            self._keep(piece["part"], pa.ipc.open_stream(piece["rows"]).read_all())
            return
        said = json.loads(piece["said"])
        self.counts.update(said["counts"])
        self.fingerprint = (self.fingerprint + said["fingerprint"]) % _ALL
        for name, known in said["levels"].items():
            self.levels[name] |= set(known)
        self._check_levels()

    def sampled(self, part: str) -> pa.Table:
        """The rows of a part that are kept."""
        return self._cut(self.kept[part]).drop_columns([HASH])

    def _keep(self, part: str, table: pa.Table) -> None:
        both = pa.concat_tables([self.kept[part], table]) if part in self.kept else table
        # Cutting sorts: not for every batch.
        much = len(both) > 2 * self._sample.rows or both.nbytes > 2 * self._sample.bytes_
        self.kept[part] = self._cut(both) if much else both

    def _cut(self, table: pa.Table) -> pa.Table:
        return smallest(table, HASH, self._sample.rows, self._sample.bytes_)

    def _check_levels(self) -> None:
        for name, known in self.levels.items():
            if len(known) <= MOST_LEVELS:
                continue
            what = f"column {name!r} holds more than {MOST_LEVELS} different texts"
            if name == self._reader.target.name:
                raise Mistake(f"{what}, too many for classes; name another data.target, or learn it as a number")
            raise Mistake(f"{what}, too many for a category; leave it out: name others in data.features")


def tallied(batch: Mapping[str, Any], *, reader: Reader, sample: Sample) -> Iterator[dict[str, list[Any]]]:
    """Before training: count and sample the rows of some units."""
    os.nice(max(0, NICENESS - os.nice(0)))
    tally = Tally(reader, sample)
    for unit in batch["unit"]:
        for table, dropped in reader.read(Unit.model_validate_json(unit)):
            tally.add(table, dropped)
        let_go()
    for piece in tally.pieces():
        yield {name: [value] for name, value in piece.items()}
    del tally
    let_go()


def training_rows(batch: Mapping[str, Any], *, reader: Reader) -> Iterator[Any]:
    """In an epoch: hand on the training rows of some units, as `Reader.encode` has them."""
    os.nice(max(0, NICENESS - os.nice(0)))
    for unit in batch["unit"]:
        for table, _ in reader.read(Unit.model_validate_json(unit)):
            wanted = reader.parts(reader.inputs_hash(table)) == PARTS.index("train")
            if not wanted.any():
                continue
            rows = reader.encode(table)
            if reader.texts:
                yield pa.table(rows).filter(pa.array(wanted))
            else:
                yield {name: values[wanted] for name, values in rows.items()}
        let_go()


def let_go() -> None:
    """Give memory back: Arrow would keep it for its next use, in every process that has ever read."""
    pa.default_memory_pool().release_unused()


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written
