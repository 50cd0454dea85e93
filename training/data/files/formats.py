"""Formats: how Parquet, CSV, JSON lines and pictures are read, a little at a time.

Train walk: source.py -> [formats.py] -> columns.py
Each function yields Arrow batches of the columns that are wanted. CSV comes as bytes, whatever its values look like,
and JSON lines in the types that are asked for: `columns` makes numbers and texts of them, and says where one is wrong.
"""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import csv, parquet
from pyarrow import json as jsonl

from training.data import images
from training.data.files.source_location import SourceLocation
from training.errors import UserError

# So much of a file is in memory at a time, decoded.
BATCH_BYTES = 2**22
# So much of a row group is fetched at a time: all of it, which an object store answers fastest, or part of each column.
GROUP_BYTES = 2**24
MAX_BATCH_ROWS = 2**16


def read_parquet(stream: Any, group: int, columns: Sequence[str], place: SourceLocation) -> Iterator[pa.RecordBatch]:
    """Read one row group."""
    described = parquet.read_metadata(stream)
    place.require_columns(columns, described.schema.to_arrow_schema().names)
    size, rows = described.row_group(group).total_byte_size, described.row_group(group).num_rows
    at_once = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(1, size // max(1, rows))))
    part = max(2**12, GROUP_BYTES // max(1, len(columns)))
    file = parquet.ParquetFile(stream, metadata=described, buffer_size=part, pre_buffer=size <= GROUP_BYTES)
    yield from file.iter_batches(at_once, row_groups=[group], columns=list(columns), use_threads=False)


def read_csv(stream: Any, columns: Sequence[str], place: SourceLocation) -> Iterator[pa.RecordBatch]:
    """Read a CSV file with a header."""
    odd: list[csv.InvalidRow] = []

    def note(row: csv.InvalidRow) -> str:
        odd.append(row)
        return "error"

    # One thread, so that rows are counted.
    reading = csv.ReadOptions(use_threads=False, block_size=BATCH_BYTES)
    parsing = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    as_bytes = csv.ConvertOptions(
        column_types={name: pa.binary() for name in columns}, strings_can_be_null=True, null_values=[""]
    )
    try:
        reader = csv.open_csv(stream, reading, parsing, as_bytes)
        place.require_columns(columns, reader.schema.names)
        for batch in reader:
            yield batch.select(list(columns))
    except pa.ArrowInvalid:
        if not odd:
            raise
        row = odd[0]
        # Arrow counts the header.
        raise place.row_error(
            row.number - 2,
            f"{row.actual_columns} values, where the header has {row.expected_columns}: {row.text[:80]!r}",
        ) from None


def read_jsonl(stream: Any, schema: pa.Schema, place: SourceLocation) -> Iterator[pa.RecordBatch]:
    """Read an object from each line; a key that it lacks is null, others are passed over."""
    parsing = jsonl.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    for lines in split_lines(stream):
        try:
            reading = jsonl.ReadOptions(use_threads=False, block_size=len(lines) + 1)
            table = jsonl.read_json(io.BytesIO(lines), reading, parsing)
        except pa.ArrowInvalid as error:
            _raise_bad_line(lines, schema, place)
            raise place.row_error(0, f"this line, or one of those after it, cannot be read: {error}") from error
        yield from table.combine_chunks().to_batches()
        place = place.advance(len(table))


def split_lines(stream: Any) -> Iterator[bytes]:
    """Cut a stream into pieces that end where a line ends; blank lines alone make no piece."""
    rest = b""
    while piece := stream.read(BATCH_BYTES):
        lines, newline, rest = (rest + piece).rpartition(b"\n")
        if lines.strip():
            yield lines + newline
    if rest.strip():
        yield rest


def decode_image(raw: bytes, file: str, height: int, width: int, mode: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a picture's file; uint8 of shape (channels, height, width).

    Raises:
        Mistake: it is none, or broken.
    """
    try:
        return images.resize_to_pixels(images.orient_and_convert(Image.open(io.BytesIO(raw)), mode), height, width)
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise UserError(f"{file}: no picture that can be decoded ({error}); mend it or take it out") from error


def _raise_bad_line(lines: bytes, schema: pa.Schema, place: SourceLocation) -> None:
    """Raise for the first line that is no object of the columns' types."""
    for index, line in enumerate(line for line in lines.splitlines() if line.strip()):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise place.row_error(index, f"no JSON ({error}): {line[:80].decode(errors='replace')!r}") from None
        if not isinstance(row, dict):
            raise place.row_error(index, f"no JSON object: {line[:80].decode(errors='replace')!r}")
        for field in schema:
            value = row.get(field.name)
            wanted, name = _json_type(field.type)
            if value is not None and (not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)):
                raise place.value_error(index, field.name, f"{value!r:.80} is no {name}, as it is in the first file")


def _json_type(type_: pa.DataType) -> tuple[Any, str]:
    if pa.types.is_boolean(type_):
        return bool, "true or false"
    return (str, "text") if pa.types.is_string(type_) else ((int, float), "number")
