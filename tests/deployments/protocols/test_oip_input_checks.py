"""What a tensor may hold and `predict` could not send: refused by its row."""

from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidType
from deployments.protocols.oip.input_checks import build_input_check
from training.schema import Feature, SeriesInput, TableInput

FEATURES = (Feature(name="t"), Feature(name="c", categories=("a", "b")))
NAN = np.nan


def check(schema: Any, x: Any, dtype: str = "f4") -> None:
    input_check = build_input_check("input", schema, None)
    assert input_check is not None
    input_check(np.array(x, dtype))


@pytest.mark.parametrize("code", [2, 7, -1, 0.5, 1e30])
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("allow_missing", [True, False])
def test_a_category_is_the_index_of_one(code: float, rows: int, allow_missing: bool) -> None:
    schema = TableInput(features=FEATURES, allow_missing=allow_missing)
    valid = [[-7.5, 0.0], [NAN if allow_missing else 0.0, 1.0], [0.0, NAN if allow_missing else 1.0]] * rows

    check(schema, valid)
    with pytest.raises(InvalidType, match=rf"row {len(valid)}: 'c' is .*; send a category's index, 0 to 1") as caught:
        check(schema, [*valid, [0.0, code]])
    assert ("NaN where it is missing" in str(caught.value)) == allow_missing


def test_so_it_is_among_integers() -> None:
    schema = TableInput(features=FEATURES)

    check(schema, [[2**40, 1]] * 100, "i8")
    with pytest.raises(InvalidType, match="row 0: 'c' is 2;"):
        check(schema, [[0, 2]] * 100, "i8")


SERIES = SeriesInput(features=("u", "v"), max_time_steps=10)


def test_a_series_may_end_in_padding() -> None:
    rows = np.array([[[1, 2], [3, 4], [5, 6]], [[1, 2], [NAN, NAN], [NAN, NAN]]])
    before = rows.copy()
    check(SERIES, rows)
    check(SERIES, [[[1, 2]]], "i8")

    # It is looked at only, and what comes behind its padding is none.
    assert np.array_equal(rows, before, equal_nan=True)
    rows[1, 2] = 7
    with pytest.raises(InvalidType, match="row 1: time step 1 of input 'input' is NaN"):
        check(SERIES, rows)


@pytest.mark.parametrize(
    ("series", "time_step"),
    [
        ([[1, 2], [NAN, NAN], [5, 6]], 1),
        ([[1, 2], [NAN, 4], [5, 6]], 1),
        ([[1, 2], [3, 4], [5, NAN]], 2),
        ([[NAN, NAN], [3, 4], [5, 6]], 0),
        ([[NAN, NAN]] * 3, 0),
    ],
)
def test_a_series_has_no_gaps_and_is_not_empty(series: Any, time_step: int) -> None:
    with pytest.raises(InvalidType, match=rf"row 1: time step {time_step} of input 'input' is NaN"):
        check(SERIES, [[[1, 2], [3, 4], [5, 6]], series])


def test_of_other_inputs_every_value_is_valid() -> None:
    assert build_input_check("input", TableInput(features=("a",)), None) is None
