"""Values: what a missing value is, the one spelling of a category, and which numbers a type holds, for every door that
rows come in by.

Imports nothing heavy, so that serving, clients and file readers share it. The same is done to whole columns in
training/data/files/columns.py.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

NULL_TEXTS = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA"),
        *("NULL", "NaN", "n/a", "nan", "null"),
    }
)
"""Texts that mean a missing number or category: those of pyarrow, which pandas reads as such too. In free text they are
words, and only a text of nothing but whitespace is missing."""

WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)\.0+")
"""As pandas writes a column of whole numbers of which one is missing."""


def is_missing(value: Any) -> bool:
    """Whether a value is null: None, NaN of any library, pandas' NA and NaT."""
    # Of pandas, which is not imported here, no more than the names is known.
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def spell_category(value: Any) -> str | None:
    """The spelling of a category's or a label's value: NFC without surrounding whitespace; 1.0 is "1", True "true".

    Returns:
        None where it is missing, or is neither text nor number.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and not is_missing(value):
        return str(int(value)) if value == value // 1 and abs(value) < 2**53 else repr(value)
    if not isinstance(value, str):
        return None
    text = unicodedata.normalize("NFC", value.strip())
    whole = WHOLE_NUMBER.fullmatch(text)
    text = whole[1] if whole else text
    return None if text in NULL_TEXTS else text


def is_missing_feature(value: Any) -> bool:
    """Whether a feature's value is missing: null, NaN, or a text that means it."""
    return is_missing(value) or (isinstance(value, str) and spell_category(value) is None)


def match_category(value: Any, categories: Sequence[str]) -> str | None:
    """The category that a value means, however it is spelled; None where it is none of them, or missing."""
    spelled = value if isinstance(value, str) and value in categories else spell_category(value)
    if spelled not in categories and spelled is not None and set(categories) == {"true", "false"}:
        # Truth values, which tools write in any case.
        spelled = spelled.lower()
    return spelled if spelled in categories else None


def find_inexact(numbers: "NDArray[Any]", cast: "NDArray[Any]") -> int | None:
    """Find the first whole number that a cast made another one: two different ones would become the same.

    Fractions are measured values, and are rounded as always; NaN and infinity stay what they are.

    Args:
        numbers: integers or floats.
        cast: the same numbers in another type, to which numpy casts them as of the same kind.

    Returns:
        Its index in the flat array; None if all are what they were.
    """
    import numpy as np

    with np.errstate(invalid="ignore"):
        if numbers.dtype.kind == "f":
            changed = (cast.astype(numbers.dtype) != numbers) & (numbers == np.floor(numbers)) & np.isfinite(numbers)
        elif cast.dtype.kind == "f" and numbers.dtype.kind in "iu":
            bits = np.iinfo(numbers.dtype).bits - (numbers.dtype.kind == "i")
            # What rounds up beyond the integers' type has no defined way back to it.
            changed = ~np.isfinite(cast) | (cast.astype(np.float64) >= 2.0**bits)
            changed |= cast.astype(numbers.dtype) != numbers
        else:
            changed = cast != numbers  # by value, also of signed and unsigned integers
    indices = changed.ravel().nonzero()[0]
    return int(indices[0]) if len(indices) else None
