"""Columns: their kinds, inferred from the first file's schema, and their values, parsed and checked.

Numbers become float32, categories, labels and texts strings; a missing value becomes NaN or null. What is missing:
null, NaN, a text of nothing but whitespace, and, but in free text, the words that tools write for it (`NA`, `null`).
One value has one spelling: text is NFC without surrounding whitespace, 1.0 is "1", True is "true".
"""
# Shapes: N rows of a batch.

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.files.row_location import SourceLocation
from training.data.values import NULL_TEXTS, WHOLE_NUMBER, find_inexact
from training.errors import UserError
from training.schema import SPLITS, StrictModel

# A label is a target's value as text, whatever its type in the file; a split is one of SPLITS.
ColumnKind = Literal["number", "category", "label", "split", "text", "pixels"]

_NULL_TEXTS = pa.array(sorted(NULL_TEXTS))

# float32 has 24 bits: every whole number up to this one, and not every one above.
_MAX_EXACT_INTEGER = 2**24
# Of other numbers, the share of the column's standard deviation that rounding may change.
_MAX_ROUNDING = 1e-3


class Column(StrictModel):
    """A column to read.

    Attributes:
        name: of the column.
        kind: what it holds.
        stored_type: its Arrow type in the first file.
        has_codes: whether its categories are numbers in the files, as pandas' categorical columns may be.
        categories: None before the scan.
    """

    name: str
    kind: ColumnKind
    stored_type: str = "string"
    has_codes: bool = False
    categories: tuple[str, ...] | None = None


def infer_columns(schema: pa.Schema, names: Sequence[str], file: str) -> tuple[Column, ...]:
    """Tell numbers from categories by the Arrow types of the first file.

    Raises:
        UserError: there is no such column, or its type is neither numeric nor text.
    """
    SourceLocation(file=file).require_columns(names, schema.names)
    # Parquet stores the numbers of a categorical column; pandas notes what they are.
    described = (schema.pandas_metadata or {}).get("columns", [])
    categorical = {each["name"] for each in described if each.get("pandas_type") == "categorical"}
    columns = []
    for name in names:
        arrow_type = schema.field(name).type
        if not is_numeric_type(arrow_type) and not is_category_type(arrow_type):
            raise UserError(
                f"{file}, column {name!r} has type {arrow_type}, which cannot be a feature; name it in data.exclude"
            )
        has_codes = is_numeric_type(arrow_type) and name in categorical
        has_codes |= pa.types.is_dictionary(arrow_type) and is_numeric_type(arrow_type.value_type)
        kind: ColumnKind = "number" if is_numeric_type(arrow_type) and not has_codes else "category"
        stored_type = str(arrow_type) if str(arrow_type) in ("int64", "double", "bool") else "string"
        columns.append(Column(name=name, kind=kind, stored_type=stored_type, has_codes=has_codes))
    return tuple(columns)


def find_index_columns(schema: pa.Schema) -> set[str]:
    """Columns that are the row numbers or row names of a pandas frame, which no feature is.

    In Parquet pandas says which they are; in CSV they have no name, or the one that pandas gives to such.
    """
    described = (schema.pandas_metadata or {}).get("index_columns", [])
    return {"", "Unnamed: 0", *(name for name in described if isinstance(name, str))}


def sort_categories(names: set[str]) -> tuple[str, ...]:
    """Sort the names of classes or categories: by value where all are integers, else alphabetically."""
    all_integers = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if all_integers else None))


def category_index(texts: Any, categories: tuple[str, ...]) -> Any:
    """Each text's index among the categories; null where it is none of them."""
    return pc.index_in(texts, pa.array(categories))


def parse_column(column: Column, values: Any, location: SourceLocation) -> tuple[Any, NDArray[np.bool_]]:
    """Parse a column's values; returns them and which are missing, bool (N,).

    Raises:
        UserError: a value is not of the column's kind.
    """
    if column.kind == "pixels":
        return values, np.zeros(len(values), bool)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if column.has_codes and is_numeric_type(values.type):
        values = _write_numbers(values)
    if column.kind == "number":
        numbers = _parse_numbers(column, values, location)
        missing = ~np.isfinite(numbers)
        # Equal rows must hash alike: -0 becomes 0, and every NaN the same NaN.
        numbers = numbers + np.float32(0)
        numbers[missing] = np.nan
        return pa.array(numbers), missing
    texts = _parse_strings(column, values, location)
    if column.kind == "text":
        texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)
    else:
        texts = _spell(column, texts)
    if column.kind == "split":
        _check_splits(column, texts, location)
    return texts, pc.is_null(texts).to_numpy(zero_copy_only=False)


def format_value(value: Any) -> str:
    """A value as messages show it, at most 80 characters."""
    return f"{value.decode(errors='replace') if isinstance(value, bytes) else value!r:.80}"


def is_numeric_type(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds numbers; a column of nulls may turn out to."""
    types = pa.types
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return any(test(arrow_type) for test in tests)


def is_text_type(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds text; booleans are read as text."""
    types = pa.types
    if types.is_dictionary(arrow_type):
        return is_text_type(arrow_type.value_type)
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_boolean)
    return any(test(arrow_type) for test in tests)


def is_category_type(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds categories: texts, or what pandas calls categorical, numbers too."""
    is_dictionary = pa.types.is_dictionary(arrow_type)
    return is_text_type(arrow_type) or (is_dictionary and is_numeric_type(arrow_type.value_type))


def _spell(column: Column, texts: Any) -> Any:
    """Give each value of a category, a label or a split its one spelling; null where it is missing."""
    # Each different value once: there are few.
    encoded = texts.dictionary_encode()
    values = pc.utf8_normalize(pc.utf8_trim_whitespace(encoded.dictionary), form="NFC")
    values = pc.replace_substring_regex(values, f"^{WHOLE_NUMBER.pattern}$", r"\1")
    if column.stored_type == "bool":
        values = pc.utf8_lower(values)
    return pc.if_else(pc.is_in(values, _NULL_TEXTS), None, values).take(encoded.indices)


def _parse_numbers(column: Column, values: Any, location: SourceLocation) -> NDArray[np.float32]:
    """Parse a column of numbers; NaN where one is missing."""
    if is_text_type(values.type):
        values = pc.utf8_trim_whitespace(_parse_strings(column, values, location))
        values = pc.if_else(pc.is_in(values, _NULL_TEXTS), None, values)
        values = _cast(column, values, pa.float64(), location, "is not a number")
    elif pa.types.is_decimal(values.type):
        # By way of float64, as a decimal in a CSV file is: both round alike.
        values = pc.cast(values, pa.float64())
    elif not is_numeric_type(values.type):
        raise location.value_error(0, column.name, f"type {values.type} is not numeric")
    if pa.types.is_float16(values.type):
        values = pc.cast(values, pa.float32())
    bounds = pc.min_max(values).as_py()
    if all(bound is None or abs(bound) < _MAX_EXACT_INTEGER for bound in bounds.values()):
        # Almost always; Arrow's memory is given back as a whole, that of numpy's arrays is not.
        rounded: NDArray[np.float32] = pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        return rounded
    if pa.types.is_integer(values.type):
        # float64 holds integers up to 2**53 only.
        integers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
        _refuse_inexact(column, integers, integers.astype(np.float32), location)
    return _round_numbers(column, pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), location)


def _round_numbers(column: Column, numbers: NDArray[np.float64], location: SourceLocation) -> NDArray[np.float32]:
    """Round numbers to float32, in which nets compute, if that keeps what they say.

    Raises:
        UserError: whole numbers, as times in seconds, would change, or numbers would lose their differences.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = numbers.astype(np.float32)
        finite = np.isfinite(numbers)
        known = numbers[finite]
        if not known.size:
            return rounded
        if (known == np.floor(known)).all():
            _refuse_inexact(column, numbers, rounded, location)
        errors = np.where(finite, np.abs(rounded.astype(np.float64) - numbers), 0)
        # Beyond float32's range an error is infinite, as the deviation may be.
        if errors.max() == np.inf or errors.max() > _MAX_ROUNDING * np.std(known):
            raise _rounding_error(column, numbers, int(errors.argmax()), location)
    return rounded


def _refuse_inexact(
    column: Column, numbers: NDArray[Any], rounded: NDArray[np.float32], location: SourceLocation
) -> None:
    """Raise UserError for the first whole number that float32 does not hold."""
    index = find_inexact(numbers, rounded)
    if index is not None:
        raise _rounding_error(column, numbers, index, location)


def _rounding_error(column: Column, numbers: NDArray[Any], index: int, location: SourceLocation) -> UserError:
    value = numbers[index].item()
    with np.errstate(over="ignore"):
        near = float(np.float32(value))
    if math.isinf(near):
        problem = f"{value!r} is out of the range of float32, in which nets compute"
    else:
        is_whole = float(value).is_integer()
        text, near_text = (str(int(value)), str(int(near))) if is_whole else (repr(value), repr(near))
        problem = f"{text} would become {near_text} in float32, in which nets compute, and so would numbers beside it"
    return location.value_error(
        index,
        column.name,
        f"{problem}; subtract a constant (the smallest value, for times), use a larger unit, or name the column in "
        "data.exclude",
    )


def _parse_strings(column: Column, values: Any, location: SourceLocation) -> Any:
    if not is_text_type(values.type) and not (column.kind == "label" and is_numeric_type(values.type)):
        raise location.value_error(0, column.name, f"type {values.type} is not text, the type in the first file")
    if is_numeric_type(values.type):
        return _write_numbers(values)
    return _cast(column, values, pa.string(), location, "is not UTF-8")


def _write_numbers(values: Any) -> Any:
    """Numbers as text; null for NaN."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    return pc.cast(values, pa.string())


def _check_splits(column: Column, texts: Any, location: SourceLocation) -> None:
    invalid = pc.and_(pc.is_valid(texts), pc.is_null(category_index(texts, SPLITS)))
    if pc.any(invalid).as_py():
        index = pc.index(invalid, True).as_py()
        problem = f"{format_value(texts[index].as_py())} is not a split; write {', '.join(SPLITS)}"
        raise location.value_error(index, column.name, problem)


def _cast(column: Column, values: Any, arrow_type: pa.DataType, location: SourceLocation, problem: str) -> Any:
    try:
        return pc.cast(values, arrow_type)
    except pa.ArrowInvalid:
        # Arrow's error does not name the row.
        for index, value in enumerate(values):
            try:
                pc.cast(value, arrow_type)
            except pa.ArrowInvalid:
                problem = f"{format_value(value.as_py())} {problem}; correct it"
                raise location.value_error(index, column.name, problem) from None
        raise
