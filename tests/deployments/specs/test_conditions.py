"""What a branch's conditions hold for: one value has one spelling, and one definition of missing."""

from typing import Any

import pytest

from deployments.specs.conditions import FeatureCondition, PresenceCondition
from training.errors import UserError
from training.schema import Feature, TableInput

TABLE = TableInput(
    features=("x", Feature(name="c", categories=("1", "caf\u00e9")), Feature(name="b", categories=("false", "true"))),
    allow_missing=True,
)


def holds(feature: str, value: Any, *values: Any) -> bool:
    condition = FeatureCondition(feature=feature, values=values)
    condition.check("case", TABLE)
    as_record = condition.holds({feature: value}, TABLE)
    as_list = [value if name == feature else None for name in TABLE.feature_names]
    assert condition.holds(as_list, TABLE) == as_record
    return as_record


@pytest.mark.parametrize("value", ["1", 1, 1.0, "1.0", " 1 "])
@pytest.mark.parametrize("written", ["1", 1, "1.0"])
def test_a_category_is_the_same_however_it_is_spelled(value: Any, written: Any) -> None:
    assert holds("c", value, "caf\u00e9", written)
    assert not holds("c", value, "caf\u00e9")


def test_so_are_accents_and_truth_values() -> None:
    assert holds("c", "cafe\u0301", "caf\u00e9")
    assert holds("c", "caf\u00e9", "cafe\u0301")
    for truth in (True, "True", "TRUE", "true"):
        assert holds("b", truth, "true")
        assert holds("b", truth, True)
        assert not holds("b", truth, False)


@pytest.mark.parametrize("value", [None, "NA", "", ["1"], {"a": 1}, True, "2"])
def test_what_is_none_of_the_categories_meets_no_condition(value: Any) -> None:
    assert not holds("c", value, "1", "caf\u00e9")


def test_numbers_are_compared_as_numbers() -> None:
    assert holds("x", 1.0, 1)
    assert not holds("x", "1", 1)
    assert not holds("x", True, 1)


def test_a_value_that_a_feature_never_has_is_refused() -> None:
    with pytest.raises(UserError, match="'c' is never '2'; it is one of 1, caf\u00e9"):
        FeatureCondition(feature="c", values=("2",)).check("case", TABLE)


@pytest.mark.parametrize(
    ("value", "is_present"),
    [("1", True), (0, True), (False, True), (None, False), ("NA", False), ("", False), (" ", False), ("NaN", False)],
)
def test_what_is_missing_is_not_present(value: Any, is_present: bool) -> None:
    for feature in ("c", "x"):
        assert PresenceCondition(feature=feature).holds({feature: value}, TABLE) == is_present
        assert not PresenceCondition(feature=feature).holds({}, TABLE)
