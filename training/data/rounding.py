"""Rounding: whether numbers keep what they say in float32, in which nets compute; one rule for files and data sets.

Imports nothing heavy, so that Ray Data's read tasks stay small.
"""
# Shapes: N numbers of a column.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.values import find_inexact

MAX_EXACT_FLOAT64 = 2**53
"""Up to here float64 holds every whole number, and so do JSON and CSV files that are read as such."""

ROUNDING_REMEDY = "subtract a constant (the smallest value, for times) or use a larger unit"

# The share of the column's standard deviation that rounding may change where it makes values equal.
_MAX_ROUNDING = 1e-3
# A spread below this share of the mean is the noise of float64's own arithmetic: the column is constant.
_NOISE = 1e-13
# A value far from all others inflates the standard deviation: of so many values, so many may not become one.
_SAMPLE, _MERGED = 1024, 4


@dataclass(frozen=True)
class RoundingLoss:
    """The number that shows a column's loss: its index, what would become of it, and the remedy."""

    index: int
    problem: str


def find_rounding_loss(numbers: NDArray[Any]) -> RoundingLoss | None:
    """Find what float32 would take from a column: a whole number's digits, or the differences between numbers.

    Args:
        numbers: float64 or integers, shape (N,); NaN is ignored.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = numbers.astype(np.float32)
        if (infinite := np.isinf(rounded)).any():
            index = int(infinite.argmax())
            return RoundingLoss(index, f"{_write(numbers[index])} {_describe_infinite(float(numbers[index]))}")
        if numbers.dtype == np.float32:
            return None
        wide = numbers.astype(np.float64)
        errors = np.abs(rounded.astype(np.float64) - wide)
        known = wide[~np.isnan(wide)]
        if not known.size:
            return None
        if numbers.dtype.kind in "iu" or (known == np.floor(known)).all():
            first = find_inexact(numbers, rounded)
            return None if first is None else RoundingLoss(first, f"{_describe(numbers[first])}; {ROUNDING_REMEDY}")
        errors[np.isnan(errors)] = 0
        if errors.max() and _loses_differences(known, float(errors.max())):
            index = int(errors.argmax())
            return RoundingLoss(index, f"{_describe(wide[index])}, and so would numbers beside it; {ROUNDING_REMEDY}")
    return None


def describe_lost_digits(integer: Any, number: float) -> str:
    """Say what float64, as which texts and JSON are read, makes of a whole number beyond 2**53."""
    return f"{integer} would become {int(number)} in float64; {ROUNDING_REMEDY}, or name the column in data.exclude"


def _describe(number: Any) -> str:
    near = float(np.float32(number))
    shown = int(near) if float(number).is_integer() else near
    return f"{_write(number)} would become {shown} in float32, in which nets compute"


def _describe_infinite(number: float) -> str:
    if np.isinf(number):
        return "is not finite, and no missing value; correct it"
    return f"is out of the range of float32, in which nets compute; {ROUNDING_REMEDY}"


def _write(number: Any) -> str:
    value = number.item() if isinstance(number, np.generic) else number
    return str(int(value)) if isinstance(value, int) or (value.is_integer() and abs(value) < 1e21) else repr(value)


def _loses_differences(known: NDArray[np.float64], error: float) -> bool:
    deviation = float(known.std())
    if deviation <= _NOISE * float(np.abs(known).max()):
        return False
    sample = known[:_SAMPLE]
    if _MERGED * len(np.unique(sample.astype(np.float32))) <= len(np.unique(sample)):
        return True
    return error > _MAX_ROUNDING * deviation and len(np.unique(known.astype(np.float32))) < len(np.unique(known))
