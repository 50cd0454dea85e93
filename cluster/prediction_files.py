"""Prediction files: rows, texts and images in files become a model's inputs; its predictions are written beside them.

Predict walk: cluster.cli.predict -> [prediction_files.py] -> shoal.py -> deployments.client
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.data.image_types import IMAGE_TYPES, by_suffix
from training.data.values import is_missing
from training.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

# Inputs of one request, and bytes of the images in one.
MAX_PART_INPUTS, MAX_PART_BYTES = 1000, 8 * 2**20
TABLE_SUFFIXES, OUTPUT_SUFFIXES = (".csv", ".parquet"), (".csv", ".parquet", ".jsonl")

DescribeModel = Callable[[], dict[str, Any]]
"""Fetches the catalog's description of the model, with its manifest; called only where a file's columns need it."""


@dataclass(frozen=True)
class InputBatch:
    """Inputs of one call.

    Attributes:
        inputs: one a row: records, texts, series, or bytes of images.
        options: of the request, as top_k.
        names: of each input, where they come from files of their own.
        columns: the table that they come from, all of its columns.
        ignored_columns: columns that the model does not take.
        stream: whether the text shall be printed as it grows.
    """

    inputs: list[Any]
    options: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    columns: "pa.Table | None" = None
    ignored_columns: tuple[str, ...] = ()
    stream: bool = False

    def split(self) -> list[list[Any]]:
        """Cut the inputs into parts of a request each."""
        parts: list[list[Any]] = [[]]
        size = 0
        for each in self.inputs:
            weight = len(each) if isinstance(each, bytes) else 0
            if parts[-1] and (len(parts[-1]) == MAX_PART_INPUTS or size + weight > MAX_PART_BYTES):
                parts.append([])
                size = 0
            parts[-1].append(each)
            size += weight
        return parts


def read_source(source: str, describe_model: DescribeModel) -> InputBatch:
    """Read what the command line names.

    Args:
        source: JSON, `-` for JSON on standard input, or the path of a file or folder.
        describe_model: tells which columns the model takes.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if source == "-":
        return _read_json(sys.stdin.read(), "standard input")
    if source.lstrip().startswith(("{", "[")):
        return _read_json(source, source)
    path = _existing_path(source)
    suffix = path.suffix.lower()
    image_type = by_suffix(suffix)
    try:
        if path.is_dir():
            return _read_folder(path)
        if suffix in TABLE_SUFFIXES:
            path.open("rb").close()  # before the model is asked for its columns
            return _read_table(path, describe_model)
        if suffix in (".jsonl", ".ndjson"):
            lines = [line for line in path.read_text().splitlines() if line.strip()]
            return InputBatch([_parse_json(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)])
        if suffix == ".txt":
            return InputBatch([line for line in path.read_text().splitlines() if line.strip()])
        if image_type and image_type.is_served:
            return InputBatch([path.read_bytes()], names=[path.name])
        return _read_json(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def check_output(path: Path) -> None:
    """Refuse an output file of another kind, before any work is done."""
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UserError(f"--out {path}: write to a file that ends in {', '.join(OUTPUT_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.absolute().parent}")


def write_predictions(path: Path, batch: InputBatch, predictions: list[Any]) -> None:
    """Write each input's own columns and its prediction as one row; what is nested is JSON in a table's cell."""
    if path.suffix.lower() == ".jsonl":
        rows = [_own_columns(batch, index) | {"prediction": each} for index, each in enumerate(predictions)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
        return
    import pyarrow as pa
    from pyarrow import csv, parquet

    columns: dict[str, Any] = {}
    if batch.columns is not None:
        columns |= dict(zip(batch.columns.column_names, batch.columns.columns, strict=True))
    elif batch.names:
        columns["file"] = batch.names
    for key in dict.fromkeys(key for prediction in predictions for key in prediction):
        name = key if key not in columns else f"predicted_{key}"
        columns[name] = [_to_cell(prediction.get(key)) for prediction in predictions]
    table = pa.table(columns)
    if path.suffix.lower() == ".csv":
        csv.write_csv(table, path)
    else:
        parquet.write_table(table, path)


def _existing_path(source: str) -> Path:
    path = Path(source)
    try:
        exists = path.exists()
    except OSError:  # a text too long for a path
        exists = False
    if not exists:
        raise UserError(
            f'{source[:80]!r} is neither a file nor JSON; give a file, a folder of images, or {{"inputs": [...]}}'
        )
    return path


def _read_json(text: str, source: str) -> InputBatch:
    body = _parse_json(text, source)
    if isinstance(body, list):
        return InputBatch(body)
    if not isinstance(body, dict):
        raise UserError(f'{source[:60]!r} is a {type(body).__name__}; give {{"inputs": [...]}} or a list of inputs')
    options = dict(body)
    stream = options.pop("stream", False) is True
    return InputBatch(options.pop("inputs", []), options, stream=stream)


def _parse_json(text: str, source: str) -> Any:
    def reject(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON; write null for a missing value")

    try:
        return json.loads(text, parse_constant=reject)
    except ValueError as error:
        raise UserError(f"{source[:60]!r} is not JSON: {error}") from error


def _read_folder(folder: Path) -> InputBatch:
    files = sorted(f for f in folder.iterdir() if (kind := by_suffix(f.suffix.lower())) and kind.is_served)
    if not files:
        suffixes = ", ".join(suffix for kind in IMAGE_TYPES if kind.is_served for suffix in kind.suffixes)
        raise UserError(f"{folder} holds no image ({suffixes})")
    return InputBatch([file.read_bytes() for file in files], names=[file.name for file in files])


def _read_table(path: Path, describe_model: DescribeModel) -> InputBatch:
    """Read rows by the model's own columns: features of a table, or its one column of texts."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    schema = ((describe_model().get("manifest") or {}).get("input_schema")) or {}
    features = {
        feature["name"]: feature["categories"] for feature in schema.get("features", []) if isinstance(feature, dict)
    }
    try:
        if path.suffix.lower() == ".csv":
            # A category is text, also where it looks like a number; so is a text, in which "NA" is a word.
            types = {name: pa.string() for name, categories in features.items() if categories}
            nulls = csv.ConvertOptions().null_values
            if schema.get("kind") == "text":
                header = csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True)).column_names
                types, nulls = dict.fromkeys(header, pa.string()), [""]
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=nulls)
            table = csv.read_csv(path, None, csv.ParseOptions(newlines_in_values=True), options)
        else:
            table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if schema.get("kind") == "text":
        name = "text" if "text" in table.column_names else table.column_names[0]
        texts = [_to_input(value, path, row, name) for row, value in enumerate(table[name].to_pylist())]
        return InputBatch(texts, columns=table, ignored_columns=_others(table, [name]))
    chosen = [name for name in table.column_names if name in features] if features else table.column_names
    rows = [
        {name: _to_input(value, path, row, name) for name, value in record.items()}
        for row, record in enumerate(table.select(chosen).to_pylist())
    ]
    return InputBatch(rows, columns=table, ignored_columns=_others(table, chosen))


def _others(table: "pa.Table", chosen: list[str]) -> tuple[str, ...]:
    return tuple(name for name in table.column_names if name not in chosen)


def _to_input(value: Any, path: Path, row: int, column: str) -> Any:
    """A cell as JSON has it: NaN is a missing value, and bytes are a text, as in training."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{path}, row {row}, column {column!r}: {value!r:.80} is not UTF-8; correct it") from None
    return None if is_missing(value) else value


def renumber_row(message: str, first_row: int) -> str:
    """Replace the row's number in an error about a part of the rows by that among all of them."""
    return re.sub(r"^row (\d+)", lambda match: f"row {first_row + int(match[1])}", message)


def _own_columns(batch: InputBatch, index: int) -> dict[str, Any]:
    if batch.columns is not None:
        return {name: batch.columns[name][index].as_py() for name in batch.columns.column_names}
    if batch.names:
        return {"file": batch.names[index]}
    return {"input": batch.inputs[index]}


def _to_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
