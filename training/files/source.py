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

from training.closed import Closed
from training.errors import Mistake
from training.files import formats
from training.files.place import Place

SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".csv.bz2", ".csv.zst"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst"),
    "images": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
}
PICTURES_OF_A_UNIT = 256
# Footers are read by so many threads: an object store answers late, and many at once.
THREADS = 16
# The columns of a folder of pictures.
PIXELS, FOLDER = "pixels", "folder"


class Unit(Closed):
    """What one task reads; `group` is a row group of a Parquet file, and `before` the file's rows before it."""

    files: tuple[str, ...]
    group: int = 0
    before: int = 0


class Source(Closed):
    """Files of one format below one folder; plain values, which travel to every task that reads."""

    folder: str
    format: Literal["parquet", "csv", "jsonl", "images"]
    height: int = 0
    width: int = 0
    mode: Literal["L", "RGB"] = "RGB"

    def files(self) -> list[str]:
        """All files of the format, as the store's paths, in order.

        Raises:
            Mistake: there is nothing there, or nothing of this format.
        """
        store, path = _opened(self.folder)
        with self._explained(""):
            about = store.get_file_info(path)
            if about.type == fs.FileType.File and self.format != "images":
                return [path]
            below = store.get_file_info(fs.FileSelector(path, recursive=True))
        suffixes = SUFFIXES[self.format]
        found = sorted(f.path for f in below if f.type == fs.FileType.File and f.path.lower().endswith(suffixes))
        # What Spark and editors leave beside the data begins with one of these.
        found = [f for f in found if not any(part[0] in "._" for part in self.name(f).split("/"))]
        if not found:
            raise Mistake(f"data.path {self.folder!r} holds no {self.format} file ({', '.join(suffixes)})")
        return found

    def name(self, file: str) -> str:
        """A file as messages say it: from the folder on."""
        return file.removeprefix(f"{_opened(self.folder)[1]}/") if file != self.folder else file.rsplit("/", 1)[-1]

    def units(self, seed: int) -> tuple[list[Unit], int | None]:
        """Cut the files into units; returns them and the number of all rows, where that is known before reading."""
        files = self.files()
        if self.format == "images":
            # In the order of their names all pictures of a class would come together.
            random.Random(seed).shuffle(files)
            cuts = range(0, len(files), PICTURES_OF_A_UNIT)
            return [Unit(files=tuple(files[at : at + PICTURES_OF_A_UNIT])) for at in cuts], len(files)
        if self.format != "parquet":
            return [Unit(files=(file,)) for file in files], None
        with ThreadPoolExecutor(THREADS) as pool:
            counts = list(pool.map(self._group_rows, files))
        units = [
            Unit(files=(file,), group=group, before=before)
            for file, rows in zip(files, counts, strict=True)
            for group, before in enumerate(accumulate(rows[:-1], initial=0))
        ]
        return units, sum(map(sum, counts))

    def head(self) -> tuple[str, pa.Schema]:
        """The first file's name, columns and types; what CSV and JSON lines hold is told from its first lines."""
        file = self.files()[0]
        name = self.name(file)
        with self._explained(name), self._stream(file) as stream:
            if self.format == "parquet":
                return name, parquet.read_schema(stream)
            if self.format == "csv":
                found = csv.open_csv(stream).schema
            else:
                head = next(formats.whole_lines(stream), b"")
                found = jsonl.read_json(io.BytesIO(head), jsonl.ReadOptions(block_size=len(head) + 1)).schema
            # What looks like a time is a text that looks like one.
            return name, pa.schema([(f.name, pa.string() if pa.types.is_temporal(f.type) else f.type) for f in found])

    def batches(self, unit: Unit, schema: pa.Schema) -> Iterator[tuple[Place, pa.RecordBatch]]:
        """Read a unit, never much of it at a time; each batch comes with the place where it begins.

        Args:
            unit: what to read.
            schema: the columns that are wanted; JSON lines are read into these types.

        Raises:
            Mistake: a file cannot be read, or lacks a column.
        """
        if self.format == "images":
            yield from self._pictures(unit)
            return
        place = Place(file=self.name(unit.files[0]), before=unit.before)
        with self._explained(place.file), self._stream(unit.files[0]) as stream:
            if self.format == "parquet":
                batches = formats.parquet_batches(stream, unit.group, schema.names, place)
            elif self.format == "csv":
                batches = formats.csv_batches(stream, schema.names, place)
            else:
                batches = formats.jsonl_batches(stream, schema, place)
            for batch in batches:
                yield place, batch
                place = place.after(len(batch))

    def _pictures(self, unit: Unit) -> Iterator[tuple[Place, pa.RecordBatch]]:
        store, _ = _opened(self.folder)
        size = self.height * self.width * (1 if self.mode == "L" else 3)
        at_once = max(1, formats.BATCH_BYTES // size)
        for start in range(0, len(unit.files), at_once):
            raw, folders = [], []
            for file in unit.files[start : start + at_once]:
                name = self.name(file)
                if "/" not in name:
                    raise Mistake(f"{name} stands in no folder; put each picture into the folder of its class")
                with self._explained(name), store.open_input_stream(file, compression=None) as stream:
                    content = stream.read()
                raw.append(formats.picture(content, name, self.height, self.width, self.mode).tobytes())
                folders.append(name.split("/", 1)[0])
            columns = [pa.array(raw, pa.binary(size)), pa.array(folders)]
            yield Place(file=self.name(unit.files[start])), pa.record_batch(columns, [PIXELS, FOLDER])

    def _group_rows(self, file: str) -> list[int]:
        with self._explained(self.name(file)), self._stream(file) as stream:
            about = parquet.read_metadata(stream)
            return [about.row_group(group).num_rows for group in range(about.num_row_groups)]

    def _stream(self, file: str) -> Any:
        store, _ = _opened(self.folder)
        # Parquet is read from its end; the others may be compressed, which their names say.
        return store.open_input_file(file) if self.format == "parquet" else store.open_input_stream(file)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Say which file it was that Arrow could not read, and where."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            what = f"{name or f'data.path {self.folder!r}'} cannot be read: {' '.join(str(error).split())}"
            if isinstance(error, OSError) and "://" not in self.folder:
                what += f" (on {socket.gethostname()}; every machine of the cluster must see the same folder)"
            raise Mistake(what) from error


@lru_cache(maxsize=8)
def _opened(folder: str) -> tuple[fs.FileSystem, str]:
    """A folder's store, and its path there."""
    try:
        store, path = fs.FileSystem.from_uri(folder)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Mistake(f"data.path {folder!r} cannot be opened: {' '.join(str(error).split())}") from error
    return store, path.rstrip("/")
