"""Read tasks: the Ray tasks that read units of files, once in the scan before training and then in every epoch.

Train walk: scan.py -> [read_tasks.py] -> row_reader.py
Imports neither torch nor Ray, so that a task's process stays small.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from training.data.files.read_units import ReadUnit
from training.data.files.row_reader import RowReader
from training.data.files.row_statistics import RowStatistics, SampleLimits
from training.schema import SPLITS

# As the training workers: on a machine that also serves, replicas go first.
NICENESS = 10


def scan_units(batch: Mapping[str, Any], *, reader: RowReader, limits: SampleLimits) -> Iterator[dict[str, list[Any]]]:
    """Check, count and sample the rows of some units; yields chunks of their statistics."""
    _lower_priority()
    statistics = RowStatistics(reader, limits)
    for unit in batch["unit"]:
        for table, dropped in reader.read_rows(ReadUnit.model_validate_json(unit)):
            statistics.add_rows(table, dropped)
        release_memory()
    for chunk in statistics.to_chunks():
        yield {name: [value] for name, value in chunk.items()}
    del statistics
    release_memory()


def read_training_rows(batch: Mapping[str, Any], *, reader: RowReader) -> Iterator[Any]:
    """Yield the training rows of some units, encoded by `RowReader.encode_rows`."""
    _lower_priority()
    for unit in batch["unit"]:
        for table, _ in reader.read_rows(ReadUnit.model_validate_json(unit)):
            in_train = reader.assign_splits(table, reader.hash_inputs(table)) == SPLITS.index("train")
            if not in_train.any():
                continue
            rows = reader.encode_rows(table)
            if reader.is_text:
                yield pa.table(rows).filter(pa.array(in_train))
            else:
                yield {name: values[in_train] for name, values in rows.items()}
        release_memory()


def release_memory() -> None:
    """Return unused memory to the system, which Arrow's pool would keep in every process that has ever read."""
    pa.default_memory_pool().release_unused()


def _lower_priority() -> None:
    # Ray reuses processes: a second call must not add to the first.
    os.nice(max(0, NICENESS - os.nice(0)))
