"""Preparation: rows as their source gave them become tensors, by what is fitted on the training part alone.

Train walk: data.py -> [prepare.py] -> loop.py
What is fitted here goes into the bundle (words, tokenizer.json, the net's first layers) and does the same in serving.
"""
# Shapes: N rows of a part, B rows of a batch, T steps of the longest row.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training import data
from training.data import Dataset
from training.errors import Mistake
from training.recipe import Data, Recipe
from training.tokens import Encoded, Tokeniser
from training.words import SeriesWords, TableWords, TextWords, Words

if TYPE_CHECKING:
    from training.files.survey import Survey

# Batches of rows of like length are cut from so many shuffled batches at a time.
BUCKET = 50


@dataclass(frozen=True)
class Rows:
    """Rows ready for the net.

    Attributes:
        inputs: shape (N, ...); where rows are of unequal length (N, T, ...), filled up with the words' padding.
        targets: shape (N, ...).
        lengths: int64 (N,), the steps of each row; None where all rows are alike.
        weights: float32 (N,), what a row counts for in a score that is a mean; None for 1.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, index: Tensor | slice) -> "Rows":
        """The rows of these numbers, no longer than the longest of them."""
        part = Rows(*(None if t is None else t[index] for t in vars(self).values()))  # type: ignore[arg-type]
        if part.lengths is None or not len(part):
            return part
        steps = int(part.lengths.max())
        aligned = part.targets.ndim > 1 and part.targets.shape[1] == part.inputs.shape[1]
        targets = part.targets[:, :steps] if aligned else part.targets
        return Rows(part.inputs[:, :steps], targets, part.lengths, part.weights)


@dataclass(frozen=True)
class Fitted:
    """What the training part decided about how a row is put in words and numbers."""

    words: Words
    tokeniser: Tokeniser | None


def fit(recipe: Recipe, dataset: Dataset, train: Tensor) -> Fitted:
    """Fit the words, and the tokeniser where there is text, on the training rows.

    Raises:
        Mistake: the data set says nothing of its words, or is text and the recipe has no `tokens`.
    """
    if recipe.tokens:
        rows = dataset.select(train).inputs
        marked = isinstance(rows[0], Mapping)
        texts = [row["text"] if marked else row for row in rows]
        if not all(isinstance(text, str) for text in texts):
            raise Mistake(f"{recipe.data.source}: task {recipe.task} takes texts; its rows are of another type")
        text = TextWords(max_tokens=recipe.tokens.max_tokens, predicate=marked)
        return Fitted(text, Tokeniser.fit(recipe.tokens, texts))
    if dataset.words is None:
        raise Mistake(f"{recipe.data.source}: the Dataset has no `words`; say how a row is put in words")
    words = dataset.words
    if recipe.clean.missing == "mean" and isinstance(words, TableWords):
        words = words.model_copy(update={"missing": True})
    return Fitted(words, None)


def encode(fitted: Fitted, dataset: Dataset) -> tuple[Tensor, Tensor | None, list[Encoded]]:
    """Turn inputs into one tensor, with the rows' lengths where they differ, and the texts' tokens."""
    inputs, words = dataset.inputs, fitted.words
    if fitted.tokeniser and isinstance(words, TextWords):
        tokens = [cut(tokenise(fitted.tokeniser, row), words.max_tokens) for row in inputs]
        ids = [torch.tensor(each.ids) for each in tokens]
        return *padded(ids, words.padding), tokens
    if isinstance(inputs, Tensor):
        return inputs, None, []
    if isinstance(words, SeriesWords):
        return *padded([row[: words.max_steps] for row in inputs], words.padding), []
    raise Mistake(f"rows that are put in words as a {words.kind} must be one tensor")


def tokenise(tokeniser: Tokeniser, row: Any) -> Encoded:
    """Cut one text, or one text with a marked predicate, into tokens; the same in training and in serving."""
    if isinstance(row, str):
        return tokeniser.encode(row)
    return tokeniser.encode_marked(row["text"], *row["predicate"])


def cut(tokens: Encoded, most: int) -> Encoded:
    """Leave out what comes after so many tokens; a text without any becomes one unknown token."""
    return Encoded(tokens.ids[:most] or [1], tokens.offsets[:most] or [(0, 0)])


def padded(rows: list[Tensor], padding: float) -> tuple[Tensor, Tensor]:
    """Stack rows (T_i, ...) to (N, T, ...); returns them and their lengths."""
    return pad_sequence(rows, batch_first=True, padding_value=padding), torch.tensor([len(row) for row in rows])


def batches(rows: Rows, *, batch_rows: int, seed: int, epoch: int, rank: int, world: int, skip: int) -> Iterator[Rows]:
    """Yield this worker's share of each step of one epoch, in an order that (seed, epoch) alone decides.

    A step's rows are dealt out one by one, so that any number of workers fits; what does not fill a last step is left
    out of this epoch and, the order being new each time, of no other in particular.

    Args:
        rows: the training part.
        batch_rows: rows of one step, over all workers.
        seed: of the recipe.
        epoch: from 0.
        rank: of this worker.
        world: number of workers.
        skip: steps of this epoch that are done already.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(rows), generator=generator)
    steps = order[: len(rows) // batch_rows * batch_rows].reshape(-1, batch_rows)
    if rows.lengths is not None:
        steps = bucketed(steps, rows.lengths, generator)
    for index in steps[skip:]:
        yield rows.select(index[rank::world])


def bucketed(steps: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Put rows of like length into the same step: less filling, the same shuffling but within a bucket."""
    sorted_steps = []
    for bucket in steps.split(BUCKET):
        rows = bucket.flatten()
        rows = rows[lengths[rows].argsort(stable=True)].reshape(bucket.shape)
        sorted_steps.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(sorted_steps)


def load(recipe: Recipe, survey: "Survey | None" = None) -> tuple[Dataset, dict[str, Tensor], Fitted]:
    """Load, clean, divide and fit: everything up to the tensors; of rows in files their survey did the first three."""
    if survey:
        dataset: Dataset = survey.dataset()
        parts = survey.parts()
    else:
        assert isinstance(recipe.data, Data)  # files have a survey
        dataset = data.clean(data.load(recipe.data), recipe.clean)
        parts = data.divide(dataset, recipe.data)
    return dataset, parts, fit(recipe, dataset, parts["train"])
