"""Row reader: a row's split depends on its content alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tests.training.data.files.small_files import make_reader, make_recipe, write_files
from training.data.files.row_location import SourceLocation
from training.data.files.row_reader import RowReader
from training.data.files.scan import plan_scan
from training.recipe.spec import Files
from training.schema import SPLITS


def check_rows(reader: RowReader, numbers: Any, texts: Any) -> pa.Table:
    """Rows as the reader yields them: a missing number is always the same NaN."""
    # Numbers are read as float64.
    batch = pa.record_batch(
        {"n": pa.array(numbers, pa.float32()).cast(pa.float64()), "c": pa.array(texts, pa.string())}
    )
    return reader._check_batch(batch.append_column("y", pa.array(["p"] * len(batch))), SourceLocation(file="rows"))[0]


ROW = st.tuples(st.floats(width=32, allow_nan=True, allow_infinity=False), st.sampled_from(["a", "b", None]))


@given(st.lists(ROW, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_equal_rows_are_in_one_split_at_any_position(rows: list[tuple[float, str | None]], random: Any) -> None:
    repeated = rows * 2
    random.shuffle(repeated)
    reader = make_reader(2)

    def assign_splits(rows: list[tuple[float, str | None]]) -> list[int]:
        numbers, texts = zip(*rows, strict=True)
        table = check_rows(reader, numbers, texts)
        return reader.assign_splits(table, reader.hash_inputs(table)).tolist()

    split_by_row = {repr(row): split for row, split in zip(repeated, assign_splits(repeated), strict=True)}
    assert [split_by_row[repr(row)] for row in repeated] == assign_splits(repeated)
    assert [assign_splits([row])[0] for row in rows] == [split_by_row[repr(row)] for row in rows]


def test_all_kinds_of_nan_have_one_hash() -> None:
    reader = make_reader(2)
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7FC00001, 0x7F800001] * 9, np.uint32).view(np.float32)
    table = check_rows(reader, nans, ["a"] * len(nans))
    assert len(set(reader.hash_inputs(table).tolist())) == 1


def test_zero_of_either_sign_and_text_in_any_whitespace_have_one_hash(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": ["0", "-0", "0.0", "-0.0"] * 9, "c": ["a", " a"] * 18, "y": ["p", "q"] * 18})
    files = Files(path=write_files(frame, tmp_path / "a", "csv"), format="csv", target="y")
    reader, units, _ = plan_scan(make_recipe(files), files)

    hashes = {int(h) for unit in units for table, _ in reader.read_rows(unit) for h in reader.hash_inputs(table)}

    assert len(hashes) == 1


def test_splits_have_their_fractions_and_another_seed_splits_anew() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.random(100_000, dtype=np.float32), "c": ["a"] * 100_000})
    reader, other = (make_reader(2, seed) for seed in (1, 2))

    splits = reader.assign_splits(table, reader.hash_inputs(table))

    fractions = np.bincount(splits, minlength=len(SPLITS)) / len(splits)
    # Within four standard deviations of a fair draw.
    assert np.allclose(fractions, [0.72, 0.08, 0.2], atol=4 * np.sqrt(0.25 / len(splits)))
    assert 0.3 < (splits != other.assign_splits(table, other.hash_inputs(table))).mean() < 0.6
