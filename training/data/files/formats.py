"""Formats: how Parquet, CSV, JSON Lines and images are read, a few MB at a time.

Train walk: read_units.py -> [formats.py]
Each reader yields Arrow batches of the requested columns. CSV values come as bytes and JSON values in the types of the
schema: `columns` parses numbers and text, and names the value that is wrong.
"""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet
from pyarrow import json as jsonl

from training.data import images
from training.data.files.row_location import SourceLocation
from training.data.image_parts import TooManyParts
from training.errors import UserError

# Decoded bytes of a file in memory at a time.
BATCH_BYTES = 2**22
# A row group up to this size is fetched at once, which is fastest from an object store; of a larger one, a part of each
# column at a time.
ROW_GROUP_BUFFER_BYTES = 2**24
MAX_BATCH_ROWS = 2**16


def read_parquet(
    stream: Any, row_group: int, columns: Sequence[str], location: SourceLocation
) -> Iterator[pa.RecordBatch]:
    """Read one row group."""
    metadata = parquet.read_metadata(stream)
    location.require_columns(columns, metadata.schema.to_arrow_schema().names)
    num_bytes, num_rows = metadata.row_group(row_group).total_byte_size, metadata.row_group(row_group).num_rows
    batch_size = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(1, num_bytes // max(1, num_rows))))
    file = parquet.ParquetFile(
        stream,
        metadata=metadata,
        buffer_size=max(2**12, ROW_GROUP_BUFFER_BYTES // max(1, len(columns))),
        pre_buffer=num_bytes <= ROW_GROUP_BUFFER_BYTES,
    )
    yield from file.iter_batches(batch_size, row_groups=[row_group], columns=list(columns), use_threads=False)


def read_csv(stream: Any, columns: Sequence[str], location: SourceLocation) -> Iterator[pa.RecordBatch]:
    """Read a CSV file with a header."""
    invalid_rows: list[csv.InvalidRow] = []

    def record_invalid_row(row: csv.InvalidRow) -> str:
        invalid_rows.append(row)
        return "error"

    # With more than one thread Arrow does not number rows.
    read_options = csv.ReadOptions(use_threads=False, block_size=BATCH_BYTES)
    parse_options = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=record_invalid_row)
    convert_options = csv.ConvertOptions(
        column_types={name: pa.binary() for name in columns}, strings_can_be_null=True, null_values=[""]
    )
    try:
        reader = csv.open_csv(stream, read_options, parse_options, convert_options)
        location.require_columns(columns, reader.schema.names)
        for batch in reader:
            yield batch.select(list(columns))
    except pa.ArrowInvalid:
        if not invalid_rows:
            raise
        row = invalid_rows[0]
        # Arrow numbers rows from 1 and counts the header.
        raise location.row_error(
            row.number - 2,
            f"{row.actual_columns} values, but the header has {row.expected_columns}: {row.text[:80]!r}",
        ) from None


def read_jsonl(stream: Any, schema: pa.Schema, location: SourceLocation) -> Iterator[pa.RecordBatch]:
    """Read an object per line; a missing key is null, other keys are ignored.

    Not by `pyarrow.json.open_json`: it refuses an object larger than its block, and its errors number rows by block.
    """
    parse_options = jsonl.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    for lines in split_lines(stream):
        try:
            read_options = jsonl.ReadOptions(use_threads=False, block_size=len(lines) + 1)
            table = jsonl.read_json(io.BytesIO(lines), read_options, parse_options)
        except pa.ArrowInvalid as error:
            _raise_for_invalid_line(lines, schema, location)
            raise location.row_error(0, f"this line or a later one cannot be read: {error}") from error
        yield from table.combine_chunks().to_batches()
        location = location.advance(len(table))


def split_lines(stream: Any) -> Iterator[bytes]:
    """Cut a stream into blocks of whole lines; a block of blank lines is skipped."""
    rest = b""
    while block := stream.read(BATCH_BYTES):
        lines, newline, rest = (rest + block).rpartition(b"\n")
        if lines.strip():
            yield lines + newline
    if rest.strip():
        yield rest


def decode_image(content: bytes, file: str, height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """Decode an image file; uint8 of shape (channels, height, width).

    Raises:
        UserError: it is not an image, or a broken one.
    """
    try:
        image = images.orient_and_convert(images.open_image(content), mode)
        return images.resize_to_pixels(image, height, width)
    except (images.UnsupportedPixels, TooManyParts) as error:
        raise UserError(f"{file}: {error}") from None
    except Exception as error:  # Pillow's decoders raise errors of any type for a broken file
        raise UserError(f"{file}: not an image that can be decoded ({error}); repair or remove it") from error


def _raise_for_invalid_line(lines: bytes, schema: pa.Schema, location: SourceLocation) -> None:
    """Raise for the first line that is not an object of the schema's types."""
    for index, line in enumerate(line for line in lines.splitlines() if line.strip()):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise location.row_error(index, f"not JSON ({error}): {line[:80].decode(errors='replace')!r}") from None
        if not isinstance(row, dict):
            raise location.row_error(index, f"not a JSON object: {line[:80].decode(errors='replace')!r}")
        for field in schema:
            value = row.get(field.name)
            python_type, name = _json_type(field.type)
            is_bool = isinstance(value, bool)
            if value is not None and (not isinstance(value, python_type) or is_bool != (python_type is bool)):
                raise location.value_error(
                    index, field.name, f"{value!r:.80} is not a {name}, the column's type in the first file"
                )


def _json_type(arrow_type: pa.DataType) -> tuple[Any, str]:
    if pa.types.is_boolean(arrow_type):
        return bool, "boolean"
    return (str, "string") if pa.types.is_string(arrow_type) else ((int, float), "number")
