"""Prediction tables: rows of CSV and Parquet files become a model's inputs; its predictions are written beside them.

Predict walk: prediction_files.py -> [prediction_tables.py]
The caller's own columns come back as they are in the file: every cell of a CSV file is text, and only what the model
takes as a number is parsed.
"""
# Shapes: N rows of a file.

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from training.data.files.columns import find_index_columns, is_numeric_type, is_text_type, write_numbers
from training.data.files.row_location import SourceLocation
from training.data.values import NULL_TEXTS, is_missing
from training.errors import UserError

TEXT_COLUMN = "text"
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
_CODE = re.compile(r"0[0-9]+")


@dataclass(frozen=True)
class InputTable:
    """Rows of a file.

    Attributes:
        inputs: what the model takes of each row: a record or a text.
        columns: all columns, as they are in the file.
        ignored_columns: those that the model does not take.
    """

    inputs: list[Any]
    columns: pa.Table
    ignored_columns: tuple[str, ...]


def read_table(path: Path, input_schema: Mapping[str, Any]) -> InputTable:
    """Read rows by the model's own columns: features of a table, or its one column of texts.

    Args:
        path: of a CSV or Parquet file.
        input_schema: the model's, as its manifest has it; empty for what has none.

    Raises:
        UserError: the file cannot be read, or leaves open what is meant.
    """
    try:
        table, inferred = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    candidates = [name for name in table.column_names if name not in find_index_columns(inferred)]
    if input_schema.get("kind") == "text":
        chosen = [_choose_text(path, inferred, candidates)]
        inputs = _read_texts(path, table, chosen[0])
    else:
        features = {each["name"]: each for each in input_schema.get("features", []) if isinstance(each, dict)}
        chosen = [name for name in table.column_names if name in features] if features else candidates
        columns = [
            _read_feature(path, name, table[name], features.get(name), inferred.field(name).type) for name in chosen
        ]
        inputs = [dict(zip(chosen, row, strict=True)) for row in zip(*columns, strict=True)]
    ignored = tuple(name for name in table.column_names if name not in chosen)
    return InputTable(inputs, table, ignored)


def write_table(path: Path, own: Mapping[str, Any], predicted: Mapping[str, list[Any]]) -> None:
    """Write the caller's columns and the predictions, as CSV or Parquet by the path's suffix."""
    if path.suffix.lower() == ".parquet":
        parquet.write_table(pa.table({**own, **predicted}), path)
        return
    columns = [_to_texts(values) for values in own.values()]
    columns += [["" if value is None else value for value in values] for values in predicted.values()]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*own, *predicted])
        writer.writerows(zip(*columns, strict=True))


def choose_names(keys: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Choose a name of its own for each key of a prediction among the caller's columns."""
    used, names = set(taken), {}
    for key in keys:
        name, count = key, 1
        while name in used:
            name = f"predicted_{key}" if count == 1 else f"predicted_{key}_{count}"
            count += 1
        used.add(name)
        names[key] = name
    return names


def _read_csv(path: Path) -> tuple[pa.Table, pa.Schema]:
    """Read all cells as text; returns them, and the types that they look like."""
    parse_options = arrow_csv.ParseOptions(newlines_in_values=True)
    with arrow_csv.open_csv(path, parse_options=parse_options) as reader:
        inferred = reader.schema
    _refuse_duplicates(path, inferred.names)
    options = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(inferred.names, pa.string()), strings_can_be_null=False
    )
    return arrow_csv.read_csv(path, parse_options=parse_options, convert_options=options), inferred


def _read_parquet(path: Path) -> tuple[pa.Table, pa.Schema]:
    schema = parquet.read_schema(path)
    _refuse_duplicates(path, schema.names)
    return parquet.read_table(path), schema


def _refuse_duplicates(path: Path, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r}; give each a name of its own")


def _choose_text(path: Path, inferred: pa.Schema, candidates: list[str]) -> str:
    """The column of texts: the one of that name, else the only one that holds texts."""
    if TEXT_COLUMN in candidates or len(candidates) == 1:
        return TEXT_COLUMN if TEXT_COLUMN in candidates else candidates[0]
    texts = [name for name in candidates if _holds_texts(inferred.field(name).type)]
    if len(texts) != 1:
        found = f"{len(texts)} columns of texts" if texts else "no column of texts"
        raise UserError(
            f"{path} has {found} ({', '.join(texts or candidates)}), and the model takes one; rename the one that is "
            f"meant to {TEXT_COLUMN!r}"
        )
    return texts[0]


def _holds_texts(arrow_type: pa.DataType) -> bool:
    return is_text_type(arrow_type) and not pa.types.is_boolean(arrow_type)


def _read_texts(path: Path, table: pa.Table, name: str) -> list[Any]:
    arrow_type = table.schema.field(name).type
    if not _holds_texts(arrow_type):
        raise UserError(f"{path}, column {name!r} has type {arrow_type}; the model takes texts")
    texts = [_to_json(path, name, index, value.as_py()) for index, value in enumerate(table[name])]
    return [None if text is None or not text.strip() else text for text in texts]


def _read_feature(path: Path, name: str, values: Any, feature: Mapping[str, Any] | None, looks_like: Any) -> list[Any]:
    """A column's cells as JSON has them; a missing one is null.

    Args:
        path: of the file, for messages.
        name: of the column.
        values: of the column; text where the file is CSV.
        feature: the model's; None where it is not known, and a column of CSV is what it looks like.
        looks_like: the column's Arrow type, inferred for CSV.
    """
    categories = (feature or {}).get("categories")
    if path.suffix.lower() == ".csv":
        texts = values.to_pylist()
        if categories or (feature is None and _holds_texts(looks_like)):
            return texts if categories else [None if text in NULL_TEXTS else text for text in texts]
        if is_numeric_type(looks_like) or feature is not None:
            return [_parse_number(path, name, index, text) for index, text in enumerate(texts)]
        is_truth_value = pa.types.is_boolean(looks_like)
        return [None if text in NULL_TEXTS else text.lower() == "true" if is_truth_value else text for text in texts]
    values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if categories and is_numeric_type(values.type):
        # As training spells the numbers of a category.
        values = write_numbers(values)
    if pa.types.is_float32(values.type) or pa.types.is_float16(values.type):
        # numpy writes as many digits as the type has: 0.1, not 0.10000000149011612.
        cells = [float(str(number)) for number in values.to_numpy(zero_copy_only=False)]
    else:
        cells = values.to_pylist()
    return [_to_json(path, name, index, cell) for index, cell in enumerate(cells)]


def _parse_number(path: Path, name: str, index: int, cell: str) -> float | None:
    text = cell.strip()
    if text in NULL_TEXTS:
        return None
    problem = "is not a number; correct it"
    if _CODE.fullmatch(text):
        problem = "is no number, but a code: the model takes a number; write it without its first 0"
    else:
        try:
            number = int(text) if _WHOLE_NUMBER.fullmatch(text) else float("" if "_" in text else text)
            return None if math.isnan(number) else _to_json(path, name, index, number)
        except ValueError:
            pass
    raise SourceLocation(file=str(path)).value_error(index, name, f"{cell!r:.80} {problem}")


def _to_json(path: Path, name: str, index: int, value: Any) -> Any:
    """A cell as JSON has it: text for bytes, a number for a decimal, null for NaN."""
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise SourceLocation(file=str(path)).value_error(index, name, f"{value!r:.80} is not UTF-8") from None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and math.isinf(value):
        problem = f"{value} is not finite, and no missing value; correct it"
        raise SourceLocation(file=str(path)).value_error(index, name, problem)
    return value


def _to_texts(values: Any) -> list[str]:
    """A column as CSV has it; what is nested is JSON."""
    if not isinstance(values, pa.ChunkedArray):
        return [str(value) for value in values]
    try:
        return ["" if text is None else text for text in pc.cast(values, pa.string()).to_pylist()]
    except pa.ArrowException:
        return [json.dumps(value, ensure_ascii=False, default=str) for value in values.to_pylist()]
