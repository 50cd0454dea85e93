"""Feed: where a worker's batches come from, and how far an epoch is.

Train walk: prepare.py -> [feed.py] -> loop.py
"""

from collections.abc import Iterator
from typing import Protocol

from training import prepare
from training.errors import Mistake
from training.prepare import Rows
from training.recipe import Recipe

# Rows of one forward pass where no gradient is needed; of long rows fewer, so many numbers together.
EVALUATION_ROWS = 512
EVALUATION_NUMBERS = 2**18


class Feed(Protocol):
    """One worker's share of the rows of each part."""

    steps_per_epoch: int

    def train(self, epoch: int, skip: int) -> Iterator[Rows]:
        """This worker's share of each step of an epoch, from step `skip` on."""

    def held_out(self, part: str) -> Iterator[Rows]:
        """This worker's share of the validation or test rows."""

    def sizes(self) -> dict[str, int]:
        """Rows of each part, over all workers."""


class MemoryFeed:
    """Rows that every worker holds whole."""

    def __init__(self, recipe: Recipe, parts: dict[str, Rows], rank: int, world: int) -> None:
        self._recipe, self._parts, self._rank, self._world = recipe, parts, rank, world
        self.steps_per_epoch = len(parts["train"]) // recipe.batch_rows
        if not self.steps_per_epoch:
            raise Mistake(
                f"batch_rows={recipe.batch_rows} is more than the {len(parts['train'])} training rows; lower it"
            )
        if recipe.batch_rows < world * recipe.accumulate:
            raise Mistake(f"batch_rows={recipe.batch_rows} leaves {world} workers without a row; raise it")

    def train(self, epoch: int, skip: int) -> Iterator[Rows]:
        """See Feed."""
        return prepare.batches(
            self._parts["train"],
            batch_rows=self._recipe.batch_rows,
            seed=self._recipe.seed,
            epoch=epoch,
            rank=self._rank,
            world=self._world,
            skip=skip,
        )

    def held_out(self, part: str) -> Iterator[Rows]:
        """See Feed."""
        rows = self._parts[part]
        size = max(1, min(EVALUATION_ROWS, EVALUATION_NUMBERS // max(1, rows.inputs[0].numel())))
        for start in range(self._rank * size, len(rows), self._world * size):
            yield rows.select(slice(start, start + size))

    def sizes(self) -> dict[str, int]:
        """See Feed."""
        return {part: len(rows) for part, rows in self._parts.items()}
