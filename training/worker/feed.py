"""Feed: where a worker's batches come from, and how far an epoch is.

Train walk: preprocessing.py -> [feed.py] -> loop.py
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import ray.train
import torch
from torch import Tensor

from training.data.files.scan import FileScan, find_shoal_error
from training.data.preprocessing import BATCHES_PER_BUCKET, EncodedRows, bucket_by_length, iter_batches
from training.errors import ServiceError, UserError
from training.recipe.spec import Files, Recipe
from training.tasks.base import Task

# Rows of one forward pass where no gradient is needed; of long rows fewer, so many numbers together.
EVALUATION_ROWS = 512
EVALUATION_VALUES = 2**18


class Feed(Protocol):
    """One worker's share of the rows of each part."""

    steps_per_epoch: int

    def train_batches(self, epoch: int, skip: int) -> Iterator[EncodedRows]:
        """This worker's share of each step of an epoch, from step `skip` on."""

    def held_out_batches(self, part: str) -> Iterator[EncodedRows]:
        """This worker's share of the validation or test rows."""

    def split_sizes(self) -> dict[str, int]:
        """Rows of each part, over all workers."""


class MemoryFeed:
    """Rows that every worker holds whole."""

    def __init__(self, recipe: Recipe, parts: dict[str, EncodedRows], rank: int, world: int) -> None:
        self._recipe, self._parts, self._rank, self._world = recipe, parts, rank, world
        self.steps_per_epoch = len(parts["train"]) // recipe.batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"batch_rows={recipe.batch_size} is more than the {len(parts['train'])} training rows; lower it"
            )
        if recipe.batch_size < world * recipe.gradient_accumulation:
            raise UserError(f"batch_rows={recipe.batch_size} leaves {world} workers without a row; raise it")

    def train_batches(self, epoch: int, skip: int) -> Iterator[EncodedRows]:
        """See Feed."""
        return iter_batches(
            self._parts["train"],
            batch_rows=self._recipe.batch_size,
            seed=self._recipe.seed,
            epoch=epoch,
            rank=self._rank,
            world=self._world,
            skip=skip,
        )

    def held_out_batches(self, part: str) -> Iterator[EncodedRows]:
        """See Feed."""
        return _shard_held_out(self._parts[part], self._rank, self._world)

    def split_sizes(self) -> dict[str, int]:
        """See Feed."""
        return {part: len(rows) for part, rows in self._parts.items()}


class StreamFeed:
    """Training rows streamed from files, and held-out rows of which every worker holds what the survey kept.

    Each worker gets as many rows as any other, and what order they come in is another one in every epoch and every run.
    So an epoch that was interrupted cannot go on with the rows it had not seen: the steps that it lacks are made with
    rows drawn anew.
    """

    def __init__(
        self, recipe: Recipe, task: Task, survey: FileScan, parts: dict[str, EncodedRows], rank: int, world: int
    ) -> None:
        self._task, self._parts, self._rank, self._world = task, parts, rank, world
        self._counts, self._dataset = survey.rows, survey.to_dataset()
        self._seed, self._files = recipe.seed, recipe.data
        # As a step's rows are dealt out one by one; the first worker has most.
        shares = [len(range(r, recipe.batch_size, world)) for r in range(world)]
        self._batch_rows = shares[rank]
        if not self._batch_rows:
            raise UserError(f"batch_rows={recipe.batch_size} leaves {world} workers without a row; raise it")
        self.steps_per_epoch = self._counts["train"] // world // shares[0]
        if not self.steps_per_epoch:
            raise UserError(
                f"batch_rows={recipe.batch_size} is more than the {self._counts['train']} training rows; lower it"
            )

    def train_batches(self, epoch: int, skip: int) -> Iterator[EncodedRows]:
        """See Feed; the steps before `skip` are not made again.

        Raises:
            ShoalError: a file cannot be read any more, or is not what it was.
        """
        generator = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
        # Of rows of unequal length many are drawn at once, so that those of like length can share a step.
        window = self._batch_rows * (BATCHES_PER_BUCKET if self._parts["train"].lengths is not None else 1)
        shard = ray.train.get_dataset_shard("train")
        stream = shard.iter_torch_batches(
            batch_size=window,
            collate_fn=self._rows,
            local_shuffle_buffer_size=max(window, self._shuffled()),
            local_shuffle_seed=self._seed * 100_003 + epoch,
        )
        left = self.steps_per_epoch - skip
        try:
            with closing(iter(stream)) as windows:
                while left > 0:
                    rows = next(windows, None)
                    if rows is None:
                        raise ServiceError(
                            "the files hold fewer rows than when the run began; leave them alone, train again"
                        )
                    for index in self._steps(rows, generator)[:left]:
                        left -= 1
                        yield rows.select(index)
        except ray.exceptions.RayError as error:
            raise find_shoal_error(error) or error from None

    def held_out_batches(self, part: str) -> Iterator[EncodedRows]:
        """See Feed."""
        return _shard_held_out(self._parts[part], self._rank, self._world)

    def split_sizes(self) -> dict[str, int]:
        """See Feed; all rows of the files."""
        return dict(self._counts)

    def _rows(self, batch: Mapping[str, Any]) -> EncodedRows:
        """Turn what was streamed into tensors; in a thread beside the one that trains."""
        inputs = batch["inputs"]
        texts = inputs.dtype == object
        dataset = replace(
            self._dataset,
            inputs=list(inputs) if texts else _tensor(inputs),
            targets=_tensor(batch["targets"]),
        )
        return self._task.encode_rows(dataset)

    def _steps(self, rows: EncodedRows, generator: torch.Generator) -> Tensor:
        """The numbers of the rows of each step."""
        count = len(rows) // self._batch_rows
        steps = torch.arange(count * self._batch_rows).reshape(count, self._batch_rows)
        return steps if rows.lengths is None else bucket_by_length(steps, rows.lengths, generator)

    def _shuffled(self) -> int:
        """Rows among which the next is drawn."""
        assert isinstance(self._files, Files)
        held = self._dataset.inputs
        size = held.nbytes if isinstance(held, Tensor) else sum(len(text.encode()) for text in held)
        return min(self._files.shuffle_buffer_rows, int(self._files.shuffle_buffer_bytes * len(held) / max(1, size)))


def _shard_held_out(rows: EncodedRows, rank: int, world: int) -> Iterator[EncodedRows]:
    """A worker's share of held-out rows."""
    most = min(EVALUATION_ROWS, EVALUATION_VALUES // max(1, rows.inputs[0].numel()))
    # Few rows are divided as well: the others would only wait.
    size = max(1, min(most, math.ceil(len(rows) / world)))
    for start in range(rank * size, len(rows), world * size):
        yield rows.select(slice(start, start + size))


def _tensor(values: Any) -> Tensor:
    # What comes straight out of the object store may not be written to.
    return torch.from_numpy(np.require(values, requirements="W"))
