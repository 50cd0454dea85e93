"""Scan: one pass over all files before training, on the cluster, and the stream of their rows during training.

Train walk: training.run.driver -> [scan.py] -> read_tasks.py
Every row is checked and counted; a sample of each split is kept for preprocessing, evaluation and the model card.

Ray Data runs our read tasks, not its own readers (2.60): read_parquet and read_csv give a row's file but not its index,
which errors name; read_json loads whole files, or pandas guesses types (lines=True); read_images resizes before it
converts and ignores EXIF orientation, unlike serving; an error of read_binary_files names no host.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import DataContext, ExecutionResources, RandomSeedConfig
from torch import Tensor

from training.data.dataset import Dataset
from training.data.files import read_tasks
from training.data.files.columns import Column, find_index_columns, infer_columns, sort_categories
from training.data.files.read_units import FOLDER, PIXELS, FileSource, ReadUnit
from training.data.files.row_location import SourceLocation
from training.data.files.row_reader import RowReader
from training.data.files.row_statistics import RowStatistics, SampleLimits
from training.errors import ShoalError, UserError
from training.recipe.spec import Files, Recipe
from training.schema import SPLITS, Feature, ImageInput, InputSchema, TableInput

# Rows that were read and wait for a worker, in the object stores of the cluster, for each worker.
STREAM_BYTES = 2**27
BLOCK_BYTES = 2**22
# More units than this share tasks.
MAX_BLOCKS = 1000

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class ScannedDataset(Dataset):
    """The sampled rows of files, which stand for all of them.

    Attributes:
        content_hash: fingerprint of all rows, in any order and distribution over files.
        split_description: how rows were split and sampled, for the model card.
    """

    content_hash: str = ""
    split_description: str = ""

    def fingerprint(self) -> str:
        """Of all rows, not only of the sample."""
        return self.content_hash

    def select(self, indices: Tensor) -> "Dataset":
        """As in Dataset, without a copy where the indices are contiguous."""
        start = int(indices[0]) if len(indices) else 0
        if not torch.equal(indices, torch.arange(start, start + len(indices))):
            return super().select(indices)
        contiguous = slice(start, start + len(indices))
        assert self.targets is not None
        return replace(self, inputs=self.inputs[contiguous], targets=self.targets[contiguous])


@dataclass(frozen=True)
class FileScan:
    """Result of a scan.

    Attributes:
        row_counts: rows of each split in the files.
        sample_counts: rows of each split in the sample, where the splits follow each other.
        encoded_sample: the sample as `RowReader.encode_rows` returns it; arrays, which all workers of a machine share
            in its object store.
        dataset_attributes: the other attributes of a ScannedDataset.
        reader: with the categories of every column.
        units: what is read in every epoch.
    """

    row_counts: dict[str, int]
    sample_counts: dict[str, int]
    encoded_sample: dict[str, Any]
    dataset_attributes: dict[str, Any]
    reader: RowReader
    units: list[ReadUnit]

    def to_dataset(self) -> ScannedDataset:
        """The sample as a data set."""
        tensors: dict[str, Any] = {}
        with warnings.catch_warnings():
            # Arrays in the object store are read-only, and nothing writes to these tensors.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            for name, values in self.encoded_sample.items():
                tensors[name] = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        return ScannedDataset(**tensors, **self.dataset_attributes)

    def split_index(self) -> dict[str, Tensor]:
        """Indices of the sampled rows of each split."""
        indices, start = {}, 0
        for split, count in self.sample_counts.items():
            indices[split] = torch.arange(start, start + count)
            start += count
        return indices


def scan_files(recipe: Recipe, files: Files, on_progress: OnProgress = lambda rows: None) -> FileScan:
    """Read all files once.

    Args:
        recipe: what is trained.
        files: its data.
        on_progress: called with the number of rows read so far.

    Raises:
        UserError: a file, column or value is invalid; the message names file, row and column.
    """
    reader, units, expected_rows = plan_scan(recipe, files)
    test, validation = files.test_fraction, (1 - files.test_fraction) * files.validation_fraction
    limits = SampleLimits(
        max_rows=files.sample_rows,
        max_bytes=files.sample_bytes,
        fractions=(1 - test - validation, validation, test),
        # A column may give a split any share of the rows.
        expected_rows=None if files.split_column else expected_rows,
    )
    statistics = RowStatistics(reader, limits)
    task = partial(read_tasks.scan_units, reader=reader, limits=limits)
    stream = _map_units(_units_dataset(units, workers=2), task, units)
    try:
        chunks: Any
        for chunks in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
            for chunk in chunks.to_pylist():
                statistics.merge_chunk(chunk)
            on_progress(sum(statistics.counts[split] for split in SPLITS))
    except Exception as error:
        raise find_shoal_error(error) or error from None
    scan = build_scan(files, reader, units, statistics)
    del statistics
    read_tasks.release_memory()
    return scan


def stream_rows(scan: FileScan, seed: int, workers: int) -> ray.data.Dataset:
    """Stream the training rows; read units are shuffled anew in every epoch, at most `workers` take a shard each."""
    units = _units_dataset(scan.units, workers).randomize_block_order(seed=RandomSeedConfig(seed=seed))
    task = partial(read_tasks.read_training_rows, reader=scan.reader)
    return _map_units(units, task, scan.units)


def find_shoal_error(error: BaseException) -> ShoalError | None:
    """Find the error of ours that a Ray Data task raised, without the lines that Ray Data adds to its message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ShoalError) and not isinstance(cause, ray.exceptions.RayError):
            return type(cause)(str(cause).splitlines()[0])
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None


def plan_scan(recipe: Recipe, files: Files) -> tuple[RowReader, list[ReadUnit], int | None]:
    """Find the files and their columns; returns the reader, the units, and the number of rows, None if unknown.

    Raises:
        UserError: there are no such files or columns.
    """
    reader = plan_reader(recipe, files)
    return reader, *reader.source.plan_units(files.seed)


def plan_reader(recipe: Recipe, files: Files) -> RowReader:
    """Find the columns in the first file; reads no rows.

    Raises:
        UserError: there are no such files or columns.
    """
    source = FileSource(
        path=files.path, format=files.format, height=files.height or 0, width=files.width or 0, mode=files.mode
    )
    inputs, target = _plan_columns(recipe, files, source)
    if not inputs:
        raise UserError(f"{files.path} has no column but the target {files.target!r}; a model needs a feature")
    return RowReader(
        source=source,
        inputs=inputs,
        target=target,
        split=Column(name=files.split_column, kind="split") if files.split_column else None,
        missing_policy=recipe.clean.missing,
        test_fraction=files.test_fraction,
        validation_fraction=files.validation_fraction,
        seed=files.seed,
    )


def _plan_columns(recipe: Recipe, files: Files, source: FileSource) -> tuple[tuple[Column, ...], Column]:
    """Find the columns of the inputs and of the target in the first file."""
    if files.format == "images":
        return (Column(name=PIXELS, kind="pixels"),), Column(name=FOLDER, kind="label")
    file, schema = source.read_schema()
    assert files.target is not None  # as Files checks
    target = infer_columns(schema, [files.target], file)[0]
    target = target.model_copy(update={"kind": "number" if recipe.task == "tabular-regression" else "label"})
    if files.text:
        SourceLocation(file=file).require_columns([files.text], schema.names)
        return (Column(name=files.text, kind="text"),), target
    SourceLocation(file=file).require_columns([*files.exclude, *filter(None, [files.split_column])], schema.names)
    left_out = {files.target, files.split_column, *files.exclude} | find_index_columns(schema)
    others = [name for name in schema.names if name not in left_out]
    return infer_columns(schema, files.features or others, file), target


def _map_units(dataset: ray.data.Dataset, task: Any, units: list[ReadUnit]) -> ray.data.Dataset:
    # They reserve no CPU: where replicas and training workers have reserved them all, the workers would wait for rows
    # for ever. `concurrency` bounds what they use.
    return dataset.map_batches(task, batch_size=None, num_cpus=0, concurrency=_num_read_tasks(units))


def _units_dataset(units: list[ReadUnit], workers: int) -> ray.data.Dataset:
    """Make a Ray Data set of units, one per task; its tasks' output is bounded in memory."""
    context = DataContext.get_current()
    # The driver shows its own progress, and reports an error in one line.
    context.enable_progress_bars = context.print_on_execution_start = False
    context.log_internal_stack_trace = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = [{"unit": unit.model_dump_json()} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
    dataset.context.target_max_block_size = BLOCK_BYTES
    limits = ExecutionResources.for_limits(object_store_memory=STREAM_BYTES * workers)
    dataset.context.execution_options.resource_limits = limits
    return dataset


def _num_read_tasks(units: list[ReadUnit]) -> int:
    """How many tasks read at a time: about one per core.

    Shoal gives Ray two CPUs for each core and two more, since most holders of a CPU wait (cluster/local/start.py). Read
    tasks do not wait, and each takes memory.
    """
    return min(len(units), max(2, int(ray.cluster_resources().get("CPU", 0)) // 2 - 1))


def build_scan(files: Files, reader: RowReader, units: list[ReadUnit], statistics: RowStatistics) -> FileScan:
    """Build the result of a scan from the statistics of all units.

    Raises:
        UserError: there are too few rows, or a column is constant.
    """
    row_counts = {split: statistics.counts[split] for split in SPLITS}
    if not all(row_counts.values()):
        counts = ", ".join(f"{split} {count}" for split, count in row_counts.items())
        if files.split_column:
            raise UserError(
                f"{files.path}: column {files.split_column!r} leaves a split without rows ({counts}); each needs some"
            )
        raise UserError(
            f"{files.path} has too few rows for three splits ({counts}); add rows or change data.test_fraction"
        )
    for name, categories in statistics.categories.items():
        if len(categories) < 2:
            value = next(iter(categories), None)
            raise UserError(f"column {name!r} is constant, {value!r} in every row; leave it out or correct it")
    for column in reader.inputs:
        if column.kind == "number" and column.name not in statistics.known_numbers:
            raise UserError(f"column {column.name!r} has no value in any row; name it in data.exclude")
    reader = reader.model_copy(
        update={
            "inputs": tuple(_with_categories(column, statistics.categories) for column in reader.inputs),
            "target": _with_categories(reader.target, statistics.categories),
        }
    )
    tables = {split: statistics.sample_table(split) for split in SPLITS}
    sample_counts = {split: len(table) for split, table in tables.items()}
    encoded_sample = reader.encode_rows(pa.concat_tables(tables.values()))
    if files.text:
        encoded_sample["inputs"] = encoded_sample["inputs"].to_pylist()
    dropped = statistics.counts["dropped"]
    dataset_attributes = {
        "labels": reader.target.categories or (files.target,),
        "input_schema": _input_schema(files, reader),
        "source": files.source or files.path,
        "license": files.license,
        "dropped_rows": {"missing": dropped} if dropped else {},
        "content_hash": f"{statistics.fingerprint:016x}",
        "split_description": _describe_split(files, row_counts, sample_counts),
    }
    return FileScan(row_counts, sample_counts, encoded_sample, dataset_attributes, reader, units)


def _with_categories(column: Column, categories: Mapping[str, set[str]]) -> Column:
    if column.name not in categories:
        return column
    return column.model_copy(update={"categories": sort_categories(categories[column.name])})


def _input_schema(files: Files, reader: RowReader) -> InputSchema | None:
    if files.text:
        return None
    if files.format == "images":
        assert files.height is not None  # as Files checks
        assert files.width is not None
        return ImageInput(height=files.height, width=files.width, mode=files.mode)
    return TableInput(
        features=tuple(Feature(name=column.name, categories=column.categories) for column in reader.inputs)
    )


def _describe_split(files: Files, row_counts: Mapping[str, int], sample_counts: Mapping[str, int]) -> str:
    by_hash = (
        f"by a hash of each row's content, so that equal rows are in the same split, seed {files.seed}: "
        f"test {files.test_fraction:.0%}, validation {files.validation_fraction:.0%} of the rest"
    )
    description = f"by column {files.split_column!r}" if files.split_column else by_hash
    sampled = [
        f"{sample_counts[split]} of the {row_counts[split]} {split} rows"
        for split in SPLITS
        if sample_counts[split] < row_counts[split]
    ]
    if sampled:
        description += f"; preprocessing and scores use a sample, {', '.join(sampled)}"
    return f"{description}; training rows are streamed in an order that another run does not repeat"
