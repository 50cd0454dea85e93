"""One spelling of a value, the same for one value as for a whole column of a file."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from training.data.files.columns import Column, parse_column, write_numbers
from training.data.files.row_location import SourceLocation
from training.data.values import NULL_TEXTS, is_missing, spell_category

SPELLINGS: list[tuple[Any, str | None]] = [
    ("red", "red"),
    (" red\t", "red"),
    ("caf\u00e9", "caf\u00e9"),
    ("cafe\u0301", "caf\u00e9"),
    ("1.0", "1"),
    ("-2.00", "-2"),
    ("1.5", "1.5"),
    ("01", "01"),
    ("1.0.0", "1.0.0"),
    ("", None),
    ("  ", None),
    ("NA", None),
    ("nan", None),
    ("None", "None"),
    ("True", "true"),
    ("FALSE", "false"),
    ("tRue", "tRue"),
    ("-0.0", "0"),
    ("+1.0", "+1"),
]


@pytest.mark.parametrize(("value", "spelled"), SPELLINGS)
def test_a_text_is_spelled_in_serving_as_in_training(value: str, spelled: str | None) -> None:
    column = Column(name="c", kind="category")
    parsed, missing = parse_column(column, pa.array([value, "x"]), SourceLocation(file="f"))

    assert spell_category(value) == spelled
    assert parsed.to_pylist() == [spelled, "x"]
    assert missing.tolist() == [spelled is None, False]


@pytest.mark.parametrize(
    ("value", "spelled"), [(True, "true"), (False, "false"), (1, "1"), (1.0, "1"), (-0.5, "-0.5"), (math.nan, None)]
)
def test_numbers_and_truth_values_have_one_spelling_too(value: Any, spelled: str | None) -> None:
    assert spell_category(value) == spelled


@pytest.mark.parametrize(
    "values",
    [
        np.array([1e-7, 1e15, 1e16, 0.1, -0.0, 2.0]),
        np.array([0.1, 1e-7, 16777216, 0.3], np.float32),
        np.array([0.1, 2], np.float16),
        np.array([2**53 + 1, -1]),
    ],
    ids=["float64", "float32", "float16", "int64"],
)
def test_a_number_is_spelled_in_training_as_in_serving(values: Any) -> None:
    spelled = write_numbers(pa.array(values)).to_pylist()

    assert spelled == [spell_category(float(str(each)) if each.dtype.kind == "f" else int(each)) for each in values]
    assert spelled[0] in ("1e-07", "0.1", "9007199254740993")


@pytest.mark.parametrize("value", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")])
def test_what_is_missing_in_any_library_is_missing(value: Any) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, "", "nan", False, math.inf, b"", pd.Timestamp(0)])
def test_other_values_are_there(value: Any) -> None:
    assert not is_missing(value)


def test_the_words_for_missing_are_those_of_pyarrow() -> None:
    from pyarrow import csv

    assert set(csv.ConvertOptions().null_values) == NULL_TEXTS
