"""Preparation: rows as their source gave them become tensors, by what is fitted on the training part alone.

Train walk: dataset.py -> [prepare.py] -> loop.py
What is fitted here goes into the bundle (words, tokenizer.json, the net's first layers) and does the same in serving.
"""
# Shapes: N rows of a part, B rows of a batch, T steps of the longest row.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.data.cleaning import clean_dataset
from training.data.dataset import Dataset, load_dataset
from training.data.split import split_dataset
from training.data.tokenizer import Encoding, Tokenizer
from training.errors import UserError
from training.recipe.spec import Data, Recipe
from training.schema import InputSchema, SeriesInput, TableInput, TextInput

if TYPE_CHECKING:
    from training.data.files.scan import FileScan

# Batches of rows of like length are cut from so many shuffled batches at a time.
BATCHES_PER_BUCKET = 50


@dataclass(frozen=True)
class EncodedRows:
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

    def select(self, index: Tensor | slice) -> "EncodedRows":
        """The rows of these numbers, no longer than the longest of them."""
        part = EncodedRows(*(None if t is None else t[index] for t in vars(self).values()))  # type: ignore[arg-type]
        if part.lengths is None or not len(part):
            return part
        steps = int(part.lengths.max())
        aligned = part.targets.ndim > 1 and part.targets.shape[1] == part.inputs.shape[1]
        targets = part.targets[:, :steps] if aligned else part.targets
        return EncodedRows(part.inputs[:, :steps], targets, part.lengths, part.weights)


@dataclass(frozen=True)
class FittedPreprocessing:
    """What the training part decided about how a row is put in words and numbers."""

    input_schema: InputSchema
    tokenizer: Tokenizer | None


def fit_preprocessing(recipe: Recipe, dataset: Dataset, train: Tensor) -> FittedPreprocessing:
    """Fit the words, and the tokeniser where there is text, on the training rows.

    Raises:
        Mistake: the data set says nothing of its words, or is text and the recipe has no `tokens`.
    """
    if recipe.tokenizer:
        rows = dataset.select(train).inputs
        marked = isinstance(rows[0], Mapping)
        texts = [row["text"] if marked else row for row in rows]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{recipe.data.source}: task {recipe.task} takes texts; its rows are of another type")
        text = TextInput(max_tokens=recipe.tokenizer.max_tokens, has_predicate=marked)
        return FittedPreprocessing(text, Tokenizer.fit(recipe.tokenizer, texts))
    if dataset.input_schema is None:
        raise UserError(f"{recipe.data.source}: the Dataset has no `words`; say how a row is put in words")
    words = dataset.input_schema
    if recipe.clean.missing == "mean" and isinstance(words, TableInput):
        words = words.model_copy(update={"allow_missing": True})
    return FittedPreprocessing(words, None)


def encode_inputs(fitted: FittedPreprocessing, dataset: Dataset) -> tuple[Tensor, Tensor | None, list[Encoding]]:
    """Turn inputs into one tensor, with the rows' lengths where they differ, and the texts' tokens."""
    inputs, words = dataset.inputs, fitted.input_schema
    if fitted.tokenizer and isinstance(words, TextInput):
        tokens = [truncate_tokens(tokenize_row(fitted.tokenizer, row), words.max_tokens) for row in inputs]
        ids = [torch.tensor(each.ids) for each in tokens]
        return *pad_rows(ids, words.padding_value), tokens
    if isinstance(inputs, Tensor):
        return inputs, None, []
    if isinstance(words, SeriesInput):
        return *pad_rows([row[: words.max_time_steps] for row in inputs], words.padding_value), []
    raise UserError(f"rows that are put in words as a {words.kind} must be one tensor")


def tokenize_row(tokenizer: Tokenizer, row: Any) -> Encoding:
    """Cut one text, or one text with a marked predicate, into tokens; the same in training and in serving."""
    if isinstance(row, str):
        return tokenizer.encode(row)
    return tokenizer.encode_marked(row["text"], *row["predicate"])


def truncate_tokens(tokens: Encoding, max_tokens: int) -> Encoding:
    """Leave out what comes after so many tokens; a text without any becomes one unknown token."""
    return Encoding(tokens.ids[:max_tokens] or [1], tokens.offsets[:max_tokens] or [(0, 0)])


def pad_rows(rows: list[Tensor], padding: float) -> tuple[Tensor, Tensor]:
    """Stack rows (T_i, ...) to (N, T, ...); returns them and their lengths."""
    return pad_sequence(rows, batch_first=True, padding_value=padding), torch.tensor([len(row) for row in rows])


def iter_batches(
    rows: EncodedRows, *, batch_rows: int, seed: int, epoch: int, rank: int, world: int, skip: int
) -> Iterator[EncodedRows]:
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
        steps = bucket_by_length(steps, rows.lengths, generator)
    for index in steps[skip:]:
        yield rows.select(index[rank::world])


def bucket_by_length(steps: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Put rows of like length into the same step: less filling, the same shuffling but within a bucket."""
    sorted_steps = []
    for bucket in steps.split(BATCHES_PER_BUCKET):
        rows = bucket.flatten()
        rows = rows[lengths[rows].argsort(stable=True)].reshape(bucket.shape)
        sorted_steps.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(sorted_steps)


def prepare_dataset(
    recipe: Recipe, survey: "FileScan | None" = None
) -> tuple[Dataset, dict[str, Tensor], FittedPreprocessing]:
    """Load, clean, divide and fit: everything up to the tensors; of rows in files their survey did the first three."""
    if survey:
        dataset: Dataset = survey.to_dataset()
        parts = survey.split_index()
    else:
        assert isinstance(recipe.data, Data)  # files have a survey
        dataset = clean_dataset(load_dataset(recipe.data), recipe.clean)
        parts = split_dataset(dataset, recipe.data)
    return dataset, parts, fit_preprocessing(recipe, dataset, parts["train"])
