"""Row statistics: samples are within their limits and do not depend on the order of rows."""

import numpy as np
import pyarrow as pa
import pytest

from tests.training.data.files.small_files import make_reader
from training.data.files.columns import Column
from training.data.files.row_statistics import RowStatistics, SampleLimits
from training.schema import SPLITS


@pytest.mark.parametrize("expected_rows", [None, 6000])
def test_a_full_sample_does_not_depend_on_what_was_read_first(expected_rows: int | None) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.random(6000, dtype=np.float32), "c": ["a", "b"] * 3000, "y": ["p", "q", "q"] * 2000})
    reader = make_reader(num_categories=0)
    limits = SampleLimits(max_rows=200, max_bytes=2**20, fractions=(0.72, 0.08, 0.2), expected_rows=expected_rows)

    def sample(slices: list[pa.Table]) -> dict[str, pa.Table]:
        merged = RowStatistics(reader, limits)
        for rows in slices:
            statistics = RowStatistics(reader, limits)
            statistics.add_rows(rows, 0)
            for chunk in statistics.to_chunks():
                merged.merge_chunk(chunk)
        assert merged.counts["train"] > 4000
        return {split: merged.sample_table(split) for split in SPLITS}

    forwards = sample([table.slice(i, 1000) for i in range(0, 6000, 1000)])
    backwards = sample([table.slice(i, 700) for i in range(5600, -1, -700)])

    assert {split: len(rows) for split, rows in forwards.items()} == dict.fromkeys(SPLITS, 200)
    assert forwards == backwards


def test_a_sample_of_long_texts_keeps_to_its_bytes() -> None:
    reader = make_reader(num_categories=0).model_copy(update={"inputs": (Column(name="t", kind="text"),)})
    table = pa.table({"t": [f"{i} " + "word " * (i % 500) for i in range(2000)], "y": ["p", "q"] * 1000})
    limits = SampleLimits(max_rows=2000, max_bytes=100_000, fractions=(0.72, 0.08, 0.2), expected_rows=None)
    statistics = RowStatistics(reader, limits)

    statistics.add_rows(table, 0)

    for split in SPLITS:
        assert 50_000 < statistics.sample_table(split).nbytes <= 110_000
