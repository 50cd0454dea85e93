"""Source: what files lie where, and how they are cut into units of work.

Train walk: survey.py -> [source.py] -> formats.py -> columns.py
A unit is what one task reads: a row group of a Parquet file, a CSV or JSON lines file, some pictures. Knows neither
torch nor Ray: a process that reads for a run imports this and little else.
"""
# Shapes: K channels, H height, W width.

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
from training.data.files.source_location import SourceLocation
from training.errors import UserError
from training.schema import StrictModel

SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".csv.bz2", ".csv.zst"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst"),
    "images": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
}
IMAGES_PER_UNIT = 256
# Footers are read by so many threads: an object store answers late, and many at once.
FOOTER_THREADS = 16
# The columns of a folder of pictures.
PIXELS, FOLDER = "pixels", "folder"


class ReadUnit(StrictModel):
    """What one task reads; `group` is a row group of a Parquet file, and `before` the file's rows before it."""

    files: tuple[str, ...]
    row_group: int = 0
    row_offset: int = 0


class FileSource(StrictModel):
    """Files of one format below one folder; plain values, which travel to every task that reads."""

    folder: str
    format: Literal["parquet", "csv", "jsonl", "images"]
    height: int = 0
    width: int = 0
    mode: Literal["L", "RGB"] = "RGB"

    def list_files(self) -> list[str]:
        """All files of the format, as the store's paths, in order.

        Raises:
            Mistake: there is nothing there, or nothing of this format.
        """
        store, path = _open_filesystem(self.folder)
        with self._explain_errors(""):
            about = store.get_file_info(path)
            if about.type == fs.FileType.File and self.format != "images":
                return [path]
            below = store.get_file_info(fs.FileSelector(path, recursive=True))
        suffixes = SUFFIXES[self.format]
        found = sorted(f.path for f in below if f.type == fs.FileType.File and f.path.lower().endswith(suffixes))
        # What Spark and editors leave beside the data begins with one of these.
        found = [f for f in found if not any(part[0] in "._" for part in self.display_name(f).split("/"))]
        if not found:
            raise UserError(f"data.path {self.folder!r} holds no {self.format} file ({', '.join(suffixes)})")
        return found

    def display_name(self, file: str) -> str:
        """A file as messages say it: from the folder on."""
        return (
            file.removeprefix(f"{_open_filesystem(self.folder)[1]}/")
            if file != self.folder
            else file.rsplit("/", 1)[-1]
        )

    def plan_units(self, seed: int) -> tuple[list[ReadUnit], int | None]:
        """Cut the files into units; returns them and the number of all rows, where that is known before reading."""
        files = self.list_files()
        if self.format == "images":
            # In the order of their names all pictures of a class would come together.
            random.Random(seed).shuffle(files)
            cuts = range(0, len(files), IMAGES_PER_UNIT)
            return [ReadUnit(files=tuple(files[at : at + IMAGES_PER_UNIT])) for at in cuts], len(files)
        if self.format != "parquet":
            return [ReadUnit(files=(file,)) for file in files], None
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            counts = list(pool.map(self._count_group_rows, files))
        units = [
            ReadUnit(files=(file,), row_group=group, row_offset=before)
            for file, rows in zip(files, counts, strict=True)
            for group, before in enumerate(accumulate(rows[:-1], initial=0))
        ]
        return units, sum(map(sum, counts))

    def read_schema(self) -> tuple[str, pa.Schema]:
        """The first file's name, columns and types; what CSV and JSON lines hold is told from its first lines."""
        file = self.list_files()[0]
        name = self.display_name(file)
        with self._explain_errors(name), self._open_stream(file) as stream:
            if self.format == "parquet":
                return name, parquet.read_schema(stream)
            if self.format == "csv":
                found = csv.open_csv(stream).schema
            else:
                head = next(formats.split_lines(stream), b"")
                found = jsonl.read_json(io.BytesIO(head), jsonl.ReadOptions(block_size=len(head) + 1)).schema
            # What looks like a time is a text that looks like one.
            return name, pa.schema([(f.name, pa.string() if pa.types.is_temporal(f.type) else f.type) for f in found])

    def read_batches(self, unit: ReadUnit, schema: pa.Schema) -> Iterator[tuple[SourceLocation, pa.RecordBatch]]:
        """Read a unit, never much of it at a time; each batch comes with the place where it begins.

        Args:
            unit: what to read.
            schema: the columns that are wanted; JSON lines are read into these types.

        Raises:
            Mistake: a file cannot be read, or lacks a column.
        """
        if self.format == "images":
            yield from self._read_images(unit)
            return
        place = SourceLocation(file=self.display_name(unit.files[0]), row_offset=unit.row_offset)
        with self._explain_errors(place.file), self._open_stream(unit.files[0]) as stream:
            if self.format == "parquet":
                batches = formats.read_parquet(stream, unit.row_group, schema.names, place)
            elif self.format == "csv":
                batches = formats.read_csv(stream, schema.names, place)
            else:
                batches = formats.read_jsonl(stream, schema, place)
            for batch in batches:
                yield place, batch
                place = place.advance(len(batch))

    def _read_images(self, unit: ReadUnit) -> Iterator[tuple[SourceLocation, pa.RecordBatch]]:
        store, _ = _open_filesystem(self.folder)
        size = self.height * self.width * (1 if self.mode == "L" else 3)
        at_once = max(1, formats.BATCH_BYTES // size)
        for start in range(0, len(unit.files), at_once):
            raw, folders = [], []
            for file in unit.files[start : start + at_once]:
                name = self.display_name(file)
                if "/" not in name:
                    raise UserError(f"{name} stands in no folder; put each picture into the folder of its class")
                with self._explain_errors(name), store.open_input_stream(file, compression=None) as stream:
                    content = stream.read()
                raw.append(formats.decode_image(content, name, self.height, self.width, self.mode).tobytes())
                folders.append(name.split("/", 1)[0])
            columns = [pa.array(raw, pa.binary(size)), pa.array(folders)]
            yield SourceLocation(file=self.display_name(unit.files[start])), pa.record_batch(columns, [PIXELS, FOLDER])

    def _count_group_rows(self, file: str) -> list[int]:
        with self._explain_errors(self.display_name(file)), self._open_stream(file) as stream:
            about = parquet.read_metadata(stream)
            return [about.row_group(group).num_rows for group in range(about.num_row_groups)]

    def _open_stream(self, file: str) -> Any:
        store, _ = _open_filesystem(self.folder)
        # Parquet is read from its end; the others may be compressed, which their names say.
        return store.open_input_file(file) if self.format == "parquet" else store.open_input_stream(file)

    @contextmanager
    def _explain_errors(self, name: str) -> Iterator[None]:
        """Say which file it was that Arrow could not read, and where."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            what = f"{name or f'data.path {self.folder!r}'} cannot be read: {' '.join(str(error).split())}"
            if isinstance(error, OSError) and "://" not in self.folder:
                what += f" (on {socket.gethostname()}; every machine of the cluster must see the same folder)"
            raise UserError(what) from error


@lru_cache(maxsize=8)
def _open_filesystem(folder: str) -> tuple[fs.FileSystem, str]:
    """A folder's store, and its path there."""
    try:
        store, path = fs.FileSystem.from_uri(folder)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"data.path {folder!r} cannot be opened: {' '.join(str(error).split())}") from error
    return store, path.rstrip("/")
