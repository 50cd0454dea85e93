"""Prediction files: rows, texts and images in files become a model's inputs; its predictions are written beside them.

Predict walk: cluster.cli.predict -> [prediction_files.py] -> shoal.py -> deployments.client
"""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.data.image_types import IMAGE_TYPES, by_suffix
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
        return _read_json(sys.stdin.read().removeprefix("\ufeff"), "standard input")
    if source.lstrip().startswith(("{", "[")):
        return _read_json(source, source[:60])
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
            return InputBatch([_parse_json(line, f"{path}, line {number}") for number, line in _read_lines(path)])
        if suffix == ".txt":
            return InputBatch([line for _, line in _read_lines(path)])
        if image_type and image_type.is_served:
            return InputBatch([path.read_bytes()], names=[path.name])
        if suffix not in ("", ".json"):
            raise UserError(f"{path} is no file of inputs; give {_list_suffixes()}, or a folder of images")
        return _read_json(_read_text(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _list_suffixes() -> str:
    """Endings of the files that are read."""
    images = (suffix for kind in IMAGE_TYPES if kind.is_served for suffix in kind.suffixes)
    return ", ".join((".json", ".jsonl", ".ndjson", *TABLE_SUFFIXES, ".txt", *images))


def check_output(path: Path) -> None:
    """Refuse an output file of another kind, before any work is done."""
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UserError(f"--out {path}: write to a file that ends in {', '.join(OUTPUT_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.absolute().parent}")


def write_predictions(path: Path, batch: InputBatch, predictions: list[Any]) -> dict[str, str]:
    """Write each input's own columns and its prediction as one row; what is nested is JSON in a table's cell.

    Returns:
        The names under which parts of a prediction are written whose own name a column of the input has.
    """
    from cluster.prediction_tables import choose_names, write_table

    columns: dict[str, Any] = {}
    if batch.columns is not None:
        columns = dict(zip(batch.columns.column_names, batch.columns.columns, strict=True))
    elif batch.names:
        columns = {"file": batch.names}
    if path.suffix.lower() == ".jsonl":
        columns = columns or {"input": batch.inputs}
        names = choose_names(["prediction"], columns)
        predicted = {names["prediction"]: predictions}
        _write_lines(path, columns | predicted, len(predictions))
    else:
        names = choose_names(dict.fromkeys(key for prediction in predictions for key in prediction), columns)
        predicted = {name: [_to_cell(each.get(key)) for each in predictions] for key, name in names.items()}
        write_table(path, columns, predicted)
    return {key: name for key, name in names.items() if key != name}


def _write_lines(path: Path, columns: dict[str, Any], rows: int) -> None:
    values = {name: each if isinstance(each, list) else each.to_pylist() for name, each in columns.items()}
    lines = (
        json.dumps({name: each[row] for name, each in values.items()}, ensure_ascii=False, default=str)
        for row in range(rows)
    )
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


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
        raise UserError(f'{source!r} is a {type(body).__name__}; give {{"inputs": [...]}} or a list of inputs')
    options = dict(body)
    stream = options.pop("stream", False) is True
    return InputBatch(options.pop("inputs", []), options, stream=stream)


def _parse_json(text: str, source: str) -> Any:
    def reject(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON; write null for a missing value")

    def parse_float(number: str) -> float:
        if math.isinf(float(number)):
            raise ValueError(f"{number} is too large for a number")
        return float(number)

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"it has the key {key!r} twice in one object; write it once")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=reject, parse_float=parse_float, object_pairs_hook=build_object)
    except ValueError as error:
        raise UserError(f"{source!r} is not JSON: {error}") from error


def _read_folder(folder: Path) -> InputBatch:
    files = sorted(f for f in folder.iterdir() if (kind := by_suffix(f.suffix.lower())) and kind.is_served)
    if not files:
        suffixes = ", ".join(suffix for kind in IMAGE_TYPES if kind.is_served for suffix in kind.suffixes)
        raise UserError(f"{folder} holds no image ({suffixes})")
    return InputBatch([file.read_bytes() for file in files], names=[file.name for file in files])


def _read_table(path: Path, describe_model: DescribeModel) -> InputBatch:
    from cluster.prediction_tables import read_table

    schema = (describe_model().get("manifest") or {}).get("input_schema") or {}
    table = read_table(path, schema)
    return InputBatch(table.inputs, columns=table.columns, ignored_columns=table.ignored_columns)


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number.

    A line ends with a line feed, or carriage return and line feed: str.splitlines would also cut a text at a form feed
    and at U+2028.
    """
    lines = [line.removesuffix("\r") for line in _read_text(path).split("\n")]
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_text(path: Path) -> str:
    """UTF-8, without the byte order mark that some editors write; no line break is changed."""
    return path.read_bytes().decode("utf-8-sig")


def renumber_row(message: str, first_row: int) -> str:
    """Replace the row's number in an error about a part of the rows by that among all of them."""
    return re.sub(r"^row (\d+)", lambda match: f"row {first_row + int(match[1])}", message)


def _to_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
