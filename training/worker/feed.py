"""Feed: one worker's batches, from rows in memory or streamed from files.

Train walk: training_worker.py -> [feed.py] -> training.data.preprocessing
"""
# Shapes: N rows of a split, B rows of this worker's share of a batch.

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
from training.data.preprocessing import EncodedRows
from training.errors import ServiceError, UserError
from training.recipe.spec import Files, Recipe
from training.tasks.base import Task

# Rows are sorted by length within buckets of so many shuffled batches.
BATCHES_PER_BUCKET = 50
# Maximum rows of one evaluation batch, and maximum input values, so that long rows come in smaller batches.
MAX_EVALUATION_ROWS = 512
MAX_EVALUATION_VALUES = 2**18


class Feed(Protocol):
    """One worker's share of the rows of each split."""

    steps_per_epoch: int

    def train_batches(self, epoch: int, skip_steps: int) -> Iterator[EncodedRows]:
        """Yield this worker's share of each batch of an epoch, from step `skip_steps` on."""

    def held_out_batches(self, split: str) -> Iterator[EncodedRows]:
        """Yield this worker's share of the validation or test rows."""

    def split_sizes(self) -> dict[str, int]:
        """Count the rows of each split, over all workers."""


class MemoryFeed:
    """Rows that every worker holds completely.

    Raises:
        UserError: the batch is larger than the training split, or smaller than what the workers need.
    """

    def __init__(self, recipe: Recipe, splits: Mapping[str, EncodedRows], rank: int, world_size: int) -> None:
        self._recipe, self._splits, self._rank, self._world_size = recipe, splits, rank, world_size
        self.steps_per_epoch = len(splits["train"]) // recipe.batch_size
        if not self.steps_per_epoch:
            raise _too_few_rows(recipe, len(splits["train"]))
        if recipe.batch_size < world_size * recipe.gradient_accumulation:
            raise _too_many_workers(recipe, world_size)

    def train_batches(self, epoch: int, skip_steps: int) -> Iterator[EncodedRows]:
        """See Feed."""
        return iter_batches(
            self._splits["train"],
            batch_size=self._recipe.batch_size,
            seed=self._recipe.seed,
            epoch=epoch,
            rank=self._rank,
            world_size=self._world_size,
            skip_steps=skip_steps,
        )

    def held_out_batches(self, split: str) -> Iterator[EncodedRows]:
        """See Feed."""
        return _shard_held_out(self._splits[split], self._rank, self._world_size)

    def split_sizes(self) -> dict[str, int]:
        """See Feed."""
        return {split: len(rows) for split, rows in self._splits.items()}


class StreamFeed:
    """Training rows streamed from files; every worker holds the scan's sample of the held-out rows.

    Every worker gets the same number of rows, in another order in every epoch and every run. An interrupted epoch
    therefore cannot continue with the rows that are left: its missing steps are made with rows drawn anew.

    Raises:
        UserError: the batch is larger than the training split, or smaller than the number of workers.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        scan: FileScan,
        splits: Mapping[str, EncodedRows],
        rank: int,
        world_size: int,
    ) -> None:
        self._recipe, self._task, self._splits, self._rank, self._world_size = recipe, task, splits, rank, world_size
        self._row_counts, self._dataset = scan.row_counts, scan.to_dataset()
        # As a batch is dealt out round-robin; the first worker has the most rows of it.
        shares = [len(range(r, recipe.batch_size, world_size)) for r in range(world_size)]
        self._share = shares[rank]
        if not self._share:
            raise _too_many_workers(recipe, world_size)
        self.steps_per_epoch = self._row_counts["train"] // world_size // shares[0]
        if not self.steps_per_epoch:
            raise _too_few_rows(recipe, self._row_counts["train"])

    def train_batches(self, epoch: int, skip_steps: int) -> Iterator[EncodedRows]:
        """See Feed; the skipped steps' rows are not read.

        Raises:
            ShoalError: a file cannot be read, or has changed since the scan.
        """
        seed = self._recipe.seed * 100_003 + epoch
        generator = torch.Generator().manual_seed(seed)
        # Rows that differ in length are read a bucket at a time, so that those of similar length can share a batch.
        rows_per_read = self._share * (BATCHES_PER_BUCKET if self._splits["train"].lengths is not None else 1)
        stream = ray.train.get_dataset_shard("train").iter_torch_batches(
            batch_size=rows_per_read,
            collate_fn=self._encode,
            local_shuffle_buffer_size=max(rows_per_read, self._shuffle_buffer_rows()),
            local_shuffle_seed=seed,
        )
        remaining_steps = self.steps_per_epoch - skip_steps
        try:
            with closing(iter(stream)) as reads:
                while remaining_steps > 0:
                    rows = next(reads, None)
                    if rows is None:
                        raise ServiceError(
                            "the files hold fewer rows than when the run began; do not change them during a run, "
                            "and train again"
                        )
                    for indices in self._batch_indices(rows, generator)[:remaining_steps]:
                        remaining_steps -= 1
                        yield rows.select(indices)
        except ray.exceptions.RayError as error:
            raise find_shoal_error(error) or error from None

    def held_out_batches(self, split: str) -> Iterator[EncodedRows]:
        """See Feed."""
        return _shard_held_out(self._splits[split], self._rank, self._world_size)

    def split_sizes(self) -> dict[str, int]:
        """See Feed; all rows of the files, sampled or not."""
        return dict(self._row_counts)

    def _encode(self, columns: Mapping[str, Any]) -> EncodedRows:
        """Encode rows that were read; called in Ray Data's prefetching thread."""
        inputs = columns["inputs"]
        is_text = inputs.dtype == object
        dataset = replace(
            self._dataset,
            inputs=list(inputs) if is_text else _to_tensor(inputs),
            targets=_to_tensor(columns["targets"]),
        )
        return self._task.encode_rows(dataset)

    def _batch_indices(self, rows: EncodedRows, generator: torch.Generator) -> Tensor:
        """Divide rows that were read into batches: their indices, shape (batches, share)."""
        batches = len(rows) // self._share
        indices = torch.arange(batches * self._share).reshape(batches, self._share)
        return indices if rows.lengths is None else bucket_by_length(indices, rows.lengths, generator)

    def _shuffle_buffer_rows(self) -> int:
        """Return the size of the shuffle buffer: the recipe's rows, or fewer where they exceed its bytes."""
        files, sample = self._recipe.data, self._dataset.inputs
        assert isinstance(files, Files)
        sample_bytes = sample.nbytes if isinstance(sample, Tensor) else sum(len(text.encode()) for text in sample)
        return min(files.shuffle_buffer_rows, int(files.shuffle_buffer_bytes * len(sample) / max(1, sample_bytes)))


def iter_batches(
    rows: EncodedRows, *, batch_size: int, seed: int, epoch: int, rank: int, world_size: int, skip_steps: int
) -> Iterator[EncodedRows]:
    """Yield this worker's shard of each batch of an epoch, shuffled by (seed, epoch) alone.

    The rows of a batch are dealt out round-robin, so that any number of workers sees the same batches. Rows that do not
    fill the last batch are dropped for this epoch; the next shuffle decides anew which ones.

    Args:
        rows: the training split.
        batch_size: rows per optimizer step, over all workers.
        seed: of the recipe.
        epoch: from 0.
        rank: of this worker.
        world_size: number of workers.
        skip_steps: steps of this epoch that are done already.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(rows), generator=generator)
    batches = order[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
    if rows.lengths is not None:
        batches = bucket_by_length(batches, rows.lengths, generator)
    for indices in batches[skip_steps:]:
        yield rows.select(indices[rank::world_size])


def bucket_by_length(batches: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Group rows of similar length within each bucket of batches: less padding, and still a shuffle.

    Args:
        batches: row indices, shape (batches, batch size).
        lengths: int64 (N,).
        generator: shuffles the batches of a bucket.
    """
    bucketed = []
    for bucket in batches.split(BATCHES_PER_BUCKET):
        indices = bucket.flatten()
        indices = indices[lengths[indices].argsort(stable=True)].reshape(bucket.shape)
        bucketed.append(indices[torch.randperm(len(indices), generator=generator)])
    return torch.cat(bucketed)


def _shard_held_out(rows: EncodedRows, rank: int, world_size: int) -> Iterator[EncodedRows]:
    """Yield a worker's share of held-out rows, in batches."""
    max_rows = min(MAX_EVALUATION_ROWS, MAX_EVALUATION_VALUES // max(1, rows.inputs[0].numel()))
    # Few rows are divided as well, where the other workers would only wait.
    batch_size = max(1, min(max_rows, math.ceil(len(rows) / world_size)))
    for start in range(rank * batch_size, len(rows), world_size * batch_size):
        yield rows.select(slice(start, start + batch_size))


def _to_tensor(values: Any) -> Tensor:
    # Arrays from Ray's object store are read-only, which torch warns of.
    return torch.from_numpy(np.require(values, requirements="W"))


def _too_few_rows(recipe: Recipe, rows: int) -> UserError:
    return UserError(f"batch_size={recipe.batch_size} is more than the {rows} training rows; lower it")


def _too_many_workers(recipe: Recipe, world_size: int) -> UserError:
    micro_batches = world_size * recipe.gradient_accumulation
    return UserError(
        f"batch_size={recipe.batch_size} has too few rows for {world_size} workers; set it to {micro_batches} or more"
    )
