"""Read units: the files of a data set, cut into what one Ray task reads at a time.

Train walk: row_reader.py -> [read_units.py] -> formats.py
A unit is a row group of a Parquet file, a CSV or JSON Lines file, or some images.
Imports neither torch nor Ray, so that a read task's process stays small.
"""

import io
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv, fs, parquet
from pyarrow import json as jsonl

from training.data.files import formats
from training.data.files.row_location import SourceLocation
from training.data.image_types import IMAGE_SUFFIXES
from training.errors import UserError
from training.schema import StrictModel

SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".csv.bz2", ".csv.zst"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst"),
    "images": IMAGE_SUFFIXES,
}
IMAGES_PER_UNIT = 256
# Parquet footers are read in so many threads: an object store has a high latency, but serves many requests at once.
FOOTER_THREADS = 16
# The columns of an image folder.
PIXELS, FOLDER = "pixels", "folder"


class ReadUnit(StrictModel):
    """What a task reads at a time; `row_group` is of a Parquet file, `row_offset` the file's rows before it."""

    files: tuple[str, ...]
    row_group: int = 0
    row_offset: int = 0


class FileSource(StrictModel):
    """Files of one format at or below one path; plain values, which are sent to every read task."""

    path: str
    format: Literal["parquet", "csv", "jsonl", "images"]
    height: int = 0
    width: int = 0
    mode: Literal["L", "RGB"] = "RGB"

    def list_files(self) -> list[str]:
        """List all files of the format, as paths of the filesystem, sorted.

        Raises:
            UserError: the path does not exist, or holds no file of the format.
        """
        filesystem, path = _open_filesystem(self.path)
        with self._explain_errors(""):
            info = filesystem.get_file_info(path)
            if info.type == fs.FileType.NotFound:
                raise UserError(self._describe_missing())
            if info.type == fs.FileType.File and self.format != "images":
                return [path]
            infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        suffixes = SUFFIXES[self.format]
        files = sorted(f.path for f in infos if f.type == fs.FileType.File and f.path.lower().endswith(suffixes))
        # Hidden files, and what Spark leaves beside the data (_SUCCESS, _temporary).
        files = [f for f in files if not any(part[0] in "._" for part in self.display_name(f).split("/"))]
        if not files:
            raise UserError(f"data.path {self.path!r} holds no {self.format} file ({', '.join(suffixes)})")
        return files

    def _describe_missing(self) -> str:
        message = f"data.path: there is no {self.path!r}"
        if "://" in self.path:
            return f"{message}; correct it"
        return (
            f"{message} on {socket.gethostname()}; a relative path is taken from the folder in which the command is "
            "called: go there, or set data.path to an absolute one, which every machine of the cluster must see"
        )

    def display_name(self, file: str) -> str:
        """A file's name in messages: its path below the folder."""
        _, path = _open_filesystem(self.path)
        return file.rsplit("/", 1)[-1] if file == path else file.removeprefix(f"{path}/")

    def plan_units(self, seed: int) -> tuple[list[ReadUnit], int | None]:
        """Cut the files into units; returns them and the number of rows, None if it is unknown before reading."""
        files = self.list_files()
        if self.format == "images":
            # Sorted by name, all images of a class would be in the same units.
            random.Random(seed).shuffle(files)
            starts = range(0, len(files), IMAGES_PER_UNIT)
            return [ReadUnit(files=tuple(files[start : start + IMAGES_PER_UNIT])) for start in starts], len(files)
        if self.format != "parquet":
            return [ReadUnit(files=(file,)) for file in files], None
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            row_counts = list(pool.map(self._count_row_group_rows, files))
        units = [
            ReadUnit(files=(file,), row_group=row_group, row_offset=row_offset)
            for file, counts in zip(files, row_counts, strict=True)
            for row_group, row_offset in enumerate(accumulate(counts[:-1], initial=0))
        ]
        return units, sum(map(sum, row_counts))

    def read_schema(self) -> tuple[str, pa.Schema]:
        """The first file's name and Arrow schema; for CSV and JSON Lines inferred from its first block."""
        file = self.list_files()[0]
        name = self.display_name(file)
        with self._explain_errors(name), self._open_stream(file) as stream:
            if self.format == "parquet":
                return name, parquet.read_schema(stream)
            if self.format == "csv":
                schema = csv.open_csv(stream).schema
            else:
                head = next(formats.split_lines(stream), b"")
                schema = jsonl.read_json(io.BytesIO(head), jsonl.ReadOptions(block_size=len(head) + 1)).schema
            # Arrow infers timestamps from strings; to a net they are strings.
            return name, pa.schema([(f.name, pa.string() if pa.types.is_temporal(f.type) else f.type) for f in schema])

    def read_batches(self, unit: ReadUnit, schema: pa.Schema) -> Iterator[tuple[SourceLocation, pa.RecordBatch]]:
        """Read a unit, a few MB at a time; each batch comes with the location of its first row.

        Args:
            unit: what to read.
            schema: the requested columns; JSON Lines are read into these types.

        Raises:
            UserError: a file cannot be read, or lacks a column.
        """
        if self.format == "images":
            yield from self._read_images(unit)
            return
        location = SourceLocation(file=self.display_name(unit.files[0]), row_offset=unit.row_offset)
        with self._explain_errors(location.file), self._open_stream(unit.files[0]) as stream:
            if self.format == "parquet":
                batches = formats.read_parquet(stream, unit.row_group, schema.names, location)
            elif self.format == "csv":
                batches = formats.read_csv(stream, schema.names, location)
            else:
                batches = formats.read_jsonl(stream, schema, location)
            for batch in batches:
                yield location, batch
                location = location.advance(len(batch))

    def _read_images(self, unit: ReadUnit) -> Iterator[tuple[SourceLocation, pa.RecordBatch]]:
        filesystem, _ = _open_filesystem(self.path)
        image_bytes = self.height * self.width * (1 if self.mode == "L" else 3)
        batch_size = max(1, formats.BATCH_BYTES // image_bytes)
        for start in range(0, len(unit.files), batch_size):
            pixels, folders = [], []
            for file in unit.files[start : start + batch_size]:
                name = self.display_name(file)
                if "/" not in name:
                    raise UserError(f"{name} is in no folder; put each image into the folder of its class")
                with self._explain_errors(name), filesystem.open_input_stream(file, compression=None) as stream:
                    content = stream.read()
                pixels.append(formats.decode_image(content, name, self.height, self.width, self.mode).tobytes())
                folders.append(name.split("/", 1)[0])
            columns = [pa.array(pixels, pa.binary(image_bytes)), pa.array(folders)]
            yield SourceLocation(file=self.display_name(unit.files[start])), pa.record_batch(columns, [PIXELS, FOLDER])

    def _count_row_group_rows(self, file: str) -> list[int]:
        with self._explain_errors(self.display_name(file)), self._open_stream(file) as stream:
            metadata = parquet.read_metadata(stream)
            return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def _open_stream(self, file: str) -> Any:
        filesystem, _ = _open_filesystem(self.path)
        # Parquet needs random access; an input stream decompresses the others by their suffix.
        return filesystem.open_input_file(file) if self.format == "parquet" else filesystem.open_input_stream(file)

    @contextmanager
    def _explain_errors(self, name: str) -> Iterator[None]:
        """Raise Arrow's and the system's errors as UserError, with the file and, for a local path, the host."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            message = f"{name or f'data.path {self.path!r}'} cannot be read: {' '.join(str(error).split())}"
            if isinstance(error, OSError) and "://" not in self.path:
                message += f" (on {socket.gethostname()}; every machine of the cluster must see the same folder)"
            raise UserError(message) from error


@lru_cache(maxsize=8)
def _open_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Open the filesystem of a path or URI; returns it and the path there."""
    try:
        filesystem, inner_path = fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"data.path {path!r} cannot be opened: {' '.join(str(error).split())}") from error
    return filesystem, inner_path.rstrip("/")
