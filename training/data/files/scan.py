"""Survey: one pass over all files before training, on the cluster, and the stream of their rows in training.

Train walk: training.run.driver -> [survey.py] -> read_tasks.py, then training.run.preflight and, in every epoch, training.worker.feed
Every row is checked and counted; what preparation, scores and the card need of the rows is kept, little as it is.
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
from training.data.files.columns import Column, RowReader, infer_columns, sort_categories
from training.data.files.read_tasks import RowStatistics, SampleLimits
from training.data.files.source import FOLDER, PIXELS, FileSource, ReadUnit
from training.data.files.source_location import SourceLocation
from training.errors import ShoalError, UserError
from training.recipe.spec import Files, Recipe
from training.schema import SPLITS, Feature, ImageInput, InputSchema, TableInput

# Rows that were read and wait for a worker, in the object stores of the cluster, for each worker.
STREAM_BYTES = 2**27
BLOCK_BYTES = 2**22
# Units beyond so many share their tasks.
MAX_BLOCKS = 1000

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class ScannedDataset(Dataset):
    """The rows of files that are held in memory, which stand for all of them.

    Attributes:
        content: fingerprint of all rows, in whatever order and files they stand.
        split: how rows were divided, and which of them are held, for the card.
    """

    content: str = ""
    split: str = ""

    def fingerprint(self) -> str:
        """Of all rows, not only of those that are held."""
        return self.content

    def select(self, rows: Tensor) -> "Dataset":
        """As in Dataset; rows that follow each other are not copied."""
        start = int(rows[0]) if len(rows) else 0
        if not torch.equal(rows, torch.arange(start, start + len(rows))):
            return super().select(rows)
        together = slice(start, start + len(rows))
        assert self.targets is not None
        return replace(self, inputs=self.inputs[together], targets=self.targets[together])


@dataclass(frozen=True)
class FileScan:
    """What is known of the files.

    Attributes:
        rows: how many rows each part has in the files.
        held: how many of these are held, one part after the other.
        encoded: the rows that are held, as `Reader.encode` has them; arrays, which all workers of a machine share in
            its object store.
        about: the other attributes of a Surveyed.
        reader: how rows are read, with the levels of every category.
        units: what is read.
    """

    rows: dict[str, int]
    sampled: dict[str, int]
    encoded: dict[str, Any]
    dataset_attributes: dict[str, Any]
    reader: RowReader
    units: list[ReadUnit]

    def to_dataset(self) -> ScannedDataset:
        """The rows that are held."""
        tensors: dict[str, Any] = {}
        with warnings.catch_warnings():
            # Nobody may write to what lies in the object store, and nobody does.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            for name, values in self.encoded.items():
                tensors[name] = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        return ScannedDataset(**tensors, **self.dataset_attributes)

    def split_index(self) -> dict[str, Tensor]:
        """Which of the rows that are held belong to each part."""
        ends = np.cumsum(list(self.sampled.values())).tolist()
        return {
            part: torch.arange(end - count, end) for (part, count), end in zip(self.sampled.items(), ends, strict=True)
        }


def scan_files(recipe: Recipe, files: Files, on_rows: OnRows = lambda rows: None) -> FileScan:
    """Read everything once.

    Args:
        recipe: what is trained.
        files: its data.
        on_rows: called with the number of rows that have been read so far.

    Raises:
        Mistake: a file, column or value is not as it must be.
    """
    reader, units, expected = plan_scan(recipe, files)
    test, validation = files.test_fraction, (1 - files.test_fraction) * files.validation_fraction
    shares = (1 - test - validation, validation, test)
    sample = SampleLimits(
        max_rows=files.sample_rows, max_bytes=files.sample_bytes, fractions=shares, expected_rows=expected
    )
    tally = RowStatistics(reader, sample)
    task = partial(read_tasks.scan_units, reader=reader, sample=sample)
    read = _units_dataset(units, workers=2).map_batches(task, batch_size=None, concurrency=_num_read_tasks(units))
    try:
        pieces: Any
        for pieces in read.iter_batches(batch_size=None, batch_format="pyarrow"):
            for piece in pieces.to_pylist():
                tally.merge_chunk(piece)
            on_rows(sum(tally.counts[part] for part in SPLITS))
    except Exception as error:
        raise find_shoal_error(error) or error from None
    found = build_scan(files, reader, units, tally)
    del tally
    read_tasks.release_memory()
    return found


def stream_rows(found: FileScan, seed: int, workers: int) -> ray.data.Dataset:
    """The training rows, in units whose order is new in every epoch; at most `workers` take a share each."""
    ordered = _units_dataset(found.units, workers).randomize_block_order(seed=RandomSeedConfig(seed=seed))
    task = partial(read_tasks.read_training_rows, reader=found.reader)
    return ordered.map_batches(task, batch_size=None, concurrency=_num_read_tasks(found.units))


def find_shoal_error(error: BaseException) -> ShoalError | None:
    """What one of our own errors said in a task, without what Ray Data puts around it and adds to it."""
    at: BaseException | None = error
    while at is not None:
        inner = getattr(at, "cause", None) or at.__cause__
        if isinstance(at, ShoalError) and not isinstance(at, ray.exceptions.RayError):
            return type(at)(str(at).splitlines()[0])
        at = inner
    return None


def plan_scan(recipe: Recipe, files: Files) -> tuple[RowReader, list[ReadUnit], int | None]:
    """Find the files and tell what their columns are; returns that, the units, and the number of rows if it is known.

    Raises:
        Mistake: there are no such files or columns.
    """
    source = FileSource(
        folder=files.path,
        format=files.format,
        height=files.height or 0,
        width=files.width or 0,
        mode=files.mode,
    )
    if files.format == "images":
        inputs: tuple[Column, ...] = (Column(name=PIXELS, kind="pixels"),)
        target = Column(name=FOLDER, kind="label")
    else:
        file, schema = source.read_schema()
        assert files.target is not None  # as Files has it
        SourceLocation(file=file).require_columns([files.target], schema.names)
        target = infer_columns(schema, [files.target], file)[0]
        target = target.model_copy(update={"kind": "number" if recipe.task == "tabular-regression" else "label"})
        if files.text:
            SourceLocation(file=file).require_columns([files.text], schema.names)
            inputs = (Column(name=files.text, kind="text"),)
        else:
            others = [name for name in schema.names if name != files.target]
            inputs = infer_columns(schema, files.features or others, file)
    if not inputs:
        raise UserError(
            f"{files.path} holds no column but the target {files.target!r}; there is nothing to tell it from"
        )
    reader = RowReader(
        source=source,
        inputs=inputs,
        target=target,
        missing_policy=recipe.clean.missing,
        test_fraction=files.test_fraction,
        validation_fraction=files.validation_fraction,
        seed=files.seed,
    )
    return reader, *source.plan_units(files.seed)


def _units_dataset(units: list[ReadUnit], workers: int) -> ray.data.Dataset:
    """Units as rows of a Ray Data set, one to a task; what is read of them may not fill the memory."""
    context = DataContext.get_current()
    # This process shows its own progress, and says in one line what was wrong.
    context.enable_progress_bars = context.print_on_execution_start = False
    context.log_internal_stack_trace = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = [{"unit": unit.model_dump_json()} for unit in units]
    found = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
    found.context.target_max_block_size = BLOCK_BYTES
    limits = ExecutionResources.for_limits(object_store_memory=STREAM_BYTES * workers)
    found.context.execution_options.resource_limits = limits
    return found


def _num_read_tasks(units: list[ReadUnit]) -> int:
    """How many tasks read at a time: a core each.

    Shoal hands out two CPUs for each core and two more, since most who hold one wait (cluster/local/lifecycle.py); these do
    not, and each takes memory.
    """
    return min(len(units), max(2, int(ray.cluster_resources().get("CPU", 0)) // 2 - 1))


def build_scan(files: Files, reader: RowReader, units: list[ReadUnit], tally: RowStatistics) -> FileScan:
    """Make what is known of all units a survey.

    Raises:
        Mistake: there are too few rows, or a column that tells nothing.
    """
    counts = {part: tally.counts[part] for part in SPLITS}
    if not all(counts.values()):
        have = ", ".join(f"{part} {count}" for part, count in counts.items())
        raise UserError(
            f"{files.path} has too few rows for three parts ({have}); add rows or change data.test_fraction"
        )
    for name, levels in tally.categories.items():
        if len(levels) < 2:
            only = next(iter(levels), "nothing")
            raise UserError(
                f"column {name!r} holds {only!r} in every row, which tells nothing; leave it out or mend it"
            )
    levelled = reader.model_copy(
        update={
            "inputs": tuple(_with_categories(column, tally.categories) for column in reader.inputs),
            "target": _with_categories(reader.target, tally.categories),
        }
    )
    tables = {part: tally.sample_table(part) for part in SPLITS}
    held = {part: len(table) for part, table in tables.items()}
    encoded = levelled.encode_rows(pa.concat_tables(tables.values()))
    if files.text:
        encoded["inputs"] = encoded["inputs"].to_pylist()
    about = {
        "labels": levelled.target.categories or (files.target,),
        "input_schema": _input_schema(files, levelled),
        "source": files.source or files.path,
        "license": files.license,
        "dropped_rows": {"missing": tally.counts["dropped"]} if tally.counts["dropped"] else {},
        "content": f"{tally.fingerprint:016x}",
        "split": _describe_split(files, counts, held),
    }
    return FileScan(counts, held, encoded, about, levelled, units)


def _with_categories(column: Column, levels: Mapping[str, set[str]]) -> Column:
    return (
        column.model_copy(update={"categories": sort_categories(levels[column.name])})
        if column.name in levels
        else column
    )


def _input_schema(files: Files, reader: RowReader) -> InputSchema | None:
    if files.text:
        return None
    if files.format == "images":
        assert files.height is not None  # as Files has it
        assert files.width is not None
        return ImageInput(height=files.height, width=files.width, mode=files.mode)
    return TableInput(
        features=tuple(Feature(name=column.name, categories=column.categories) for column in reader.inputs)
    )


def _describe_split(files: Files, rows: Mapping[str, int], held: Mapping[str, int]) -> str:
    how = (
        f"by a hash of each row's content, so that equal rows stand in one part, seed {files.seed}: "
        f"test {files.test_fraction:.0%}, validation {files.validation_fraction:.0%} of the rest"
    )
    partly = [f"{held[part]} of the {rows[part]} {part} rows" for part in SPLITS if held[part] < rows[part]]
    if partly:
        how += f"; preparation and scores are from a sample, {', '.join(partly)}"
    return f"{how}; training rows are streamed in an order that another run does not repeat"
