"""One spelling of a value, the same for one value as for a whole column of a file."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from training.data.files.columns import Column, parse_column
from training.data.files.row_location import SourceLocation
from training.data.values import NULL_TEXTS, find_inexact, is_missing, spell_category

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


@pytest.mark.parametrize("value", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")])
def test_what_is_missing_in_any_library_is_missing(value: Any) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, "", "nan", False, math.inf, b"", pd.Timestamp(0)])
def test_other_values_are_there(value: Any) -> None:
    assert not is_missing(value)


def test_the_words_for_missing_are_those_of_pyarrow() -> None:
    from pyarrow import csv

    assert set(csv.ConvertOptions().null_values) == NULL_TEXTS


NUMERIC_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


@pytest.mark.parametrize(
    ("source", "target"),
    [pair for pair in itertools.permutations(NUMERIC_TYPES, 2) if np.can_cast(*pair, "same_kind")],
)
def test_a_cast_is_inexact_where_pythons_integers_differ(source: str, target: str) -> None:
    powers = [sign * 2**bits + offset for bits in range(65) for offset in (-1, 0, 1) for sign in (1, -1)]
    with np.errstate(all="ignore"):
        if source.startswith("f"):
            candidates = np.array([*powers, 0.5, -2.25, 1e300, math.nan, math.inf], source)
        else:
            bounds = np.iinfo(source)
            candidates = np.array([number for number in powers if bounds.min <= number <= bounds.max], source)
        casts = candidates.astype(target)

    for number, cast in zip(candidates, casts, strict=True):
        is_whole = math.isfinite(number) and float(number).is_integer()
        expected = is_whole and not (math.isfinite(cast) and int(cast) == int(number))
        inexact = find_inexact(np.array([0, number], source), np.array([0, cast], target))
        assert inexact == (1 if expected else None), (number, cast)
