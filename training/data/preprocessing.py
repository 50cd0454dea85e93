"""Preprocessing: rows as their source returned them become tensors, by what is fitted on the training split.

Train walk: training.worker.training_worker -> [preprocessing.py] -> dataset.py
What is fitted goes into the bundle (input schema, tokenizer.json, the net's input layers) and does the same in serving.
"""
# Shapes: N rows of a split, T time steps or tokens of the longest row.

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.data.cleaning import clean_dataset
from training.data.dataset import Dataset, load_dataset
from training.data.dataset_validation import validate_targets
from training.data.split import split_dataset
from training.data.tokenizer import UNK_ID, Encoding, Tokenizer
from training.errors import UserError
from training.recipe.spec import Data, Recipe
from training.schema import InputSchema, SeriesInput, TableInput, TextInput

if TYPE_CHECKING:
    from training.data.files.scan import FileScan


MAX_TOKEN_CHARACTERS = 64
"""Characters of a token on average, beyond which a text is not read to its end."""


# Categories of characters that end a word: spaces, line breaks, punctuation but "_".
_NO_WORD = frozenset({"Zs", "Zl", "Zp", "Cc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"})


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready for the net.

    Attributes:
        inputs: shape (N, ...); where rows differ in length (N, T, ...), padded with the schema's `padding_value`.
        targets: shape (N, ...).
        lengths: int64 (N,), the time steps or tokens of each row; None where rows have no time axis.
        weights: float32 (N,), the weight of each row in a mean metric; None for 1.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, indices: Tensor | slice) -> "EncodedRows":
        """Select rows, padded only to the longest of them."""
        rows = EncodedRows(*(None if t is None else t[indices] for t in vars(self).values()))  # type: ignore[arg-type]
        if rows.lengths is None or not len(rows):
            return rows
        max_length = int(rows.lengths.max())
        targets_have_time_axis = rows.targets.ndim > 1 and rows.targets.shape[1] == rows.inputs.shape[1]
        targets = rows.targets[:, :max_length] if targets_have_time_axis else rows.targets
        return EncodedRows(rows.inputs[:, :max_length], targets, rows.lengths, rows.weights)


@dataclass(frozen=True)
class FittedPreprocessing:
    """What was fitted on the training split: the input schema, and the tokenizer where rows are texts."""

    input_schema: InputSchema
    tokenizer: Tokenizer | None


def prepare_dataset(
    recipe: Recipe, scan: "FileScan | None" = None
) -> tuple[Dataset, dict[str, Tensor], FittedPreprocessing]:
    """Load, clean, split and fit: everything before the tensors; for files, the scan did the first three."""
    if scan:
        dataset: Dataset = scan.to_dataset()
        splits = scan.split_index()
    else:
        assert isinstance(recipe.data, Data)  # files have a scan
        dataset = clean_dataset(load_dataset(recipe.data), recipe.clean)
        # Cleaning makes a list of classes without the missing ones a tensor.
        validate_targets(dataset, recipe.data.source)
        splits = split_dataset(dataset, recipe.data)
    return dataset, splits, fit_preprocessing(recipe, dataset, splits["train"])


def fit_preprocessing(recipe: Recipe, dataset: Dataset, train_index: Tensor) -> FittedPreprocessing:
    """Fit the input schema, and the tokenizer where rows are texts, on the training rows.

    Raises:
        UserError: the data set has no input schema, or its rows are not texts though the task takes texts.
    """
    if recipe.tokenizer:
        rows = dataset.select(train_index).inputs
        has_predicate = isinstance(rows[0], Mapping)
        texts = [row["text"] if has_predicate else row for row in rows]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{recipe.data.source}: task {recipe.task} takes texts, but its rows are of another type")
        schema = TextInput(max_tokens=recipe.tokenizer.max_tokens, has_predicate=has_predicate)
        return FittedPreprocessing(schema, Tokenizer.fit(recipe.tokenizer, texts))
    if dataset.input_schema is None:
        raise UserError(f"{recipe.data.source}: the Dataset has no input_schema; describe the JSON form of a row")
    input_schema = dataset.input_schema
    if recipe.clean.missing == "mean" and isinstance(input_schema, TableInput):
        input_schema = input_schema.model_copy(update={"allow_missing": True})
    return FittedPreprocessing(input_schema, None)


def encode_inputs(preprocessing: FittedPreprocessing, dataset: Dataset) -> tuple[Tensor, Tensor | None, list[Encoding]]:
    """Encode inputs as one tensor; returns it, the rows' lengths where they differ, and the encodings of texts."""
    inputs, schema = dataset.inputs, preprocessing.input_schema
    if preprocessing.tokenizer and isinstance(schema, TextInput):
        tokenizer, limit = preprocessing.tokenizer, schema.max_tokens
        encodings = [truncate_tokens(tokenize_beginning(tokenizer, row, limit), limit) for row in inputs]
        ids = [torch.tensor(encoding.ids) for encoding in encodings]
        return *pad_rows(ids, schema.padding_value), encodings
    if isinstance(inputs, Tensor):
        return inputs[:, : schema.max_time_steps] if isinstance(schema, SeriesInput) else inputs, None, []
    if isinstance(schema, SeriesInput):
        return *pad_rows([row[: schema.max_time_steps] for row in inputs], schema.padding_value), []
    raise UserError(f"inputs of schema kind {schema.kind!r} must be one tensor, not a {type(inputs).__name__}")


def tokenize_row(tokenizer: Tokenizer, row: Any) -> Encoding:
    """Tokenize a text, or a text with its predicate; the same in training and in serving."""
    if isinstance(row, str):
        return tokenizer.encode(row)
    return tokenizer.encode_with_predicate(row["text"], *row["predicate"])


def tokenize_beginning(tokenizer: Tokenizer, row: Any, max_tokens: int) -> Encoding:
    """Tokenize the beginning of a text: its first `max_tokens` tokens, and more if there are more.

    The text is cut between two words before it is tokenized. Of more than MAX_TOKEN_CHARACTERS a token on average,
    what is behind is left out.
    """
    if not isinstance(row, str):
        text, (start, end) = row["text"], row["predicate"]
        limit = max(end, max_tokens * MAX_TOKEN_CHARACTERS)
        return tokenize_row(tokenizer, {"text": text[:limit], "predicate": (start, end)})
    for length in _list_lengths(len(row), max_tokens):
        end = length if length == len(row) else find_word_end(row, length)
        encoding = tokenizer.encode(row[: end or length])
        if end and len(encoding.ids) > max_tokens:
            break
    return encoding


def tokenize_end(tokenizer: Tokenizer, text: str, max_tokens: int) -> Encoding:
    """Tokenize the end of a text: its last `max_tokens` tokens, at least one; see tokenize_beginning."""
    for length in _list_lengths(len(text), max_tokens):
        start = 0 if length == len(text) else find_word_end(text, len(text) - length)
        encoding = tokenizer.encode(text[len(text) - length if start is None else start :])
        if start is not None and len(encoding.ids) >= max_tokens:
            break
    last = slice(-max_tokens, None)
    return Encoding(encoding.ids[last] or [UNK_ID], encoding.offsets[last] or [(0, 0)])


def _list_lengths(text_length: int, max_tokens: int) -> list[int]:
    """Numbers of characters to try, the first of which usually has enough tokens."""
    limit = min(text_length, max_tokens * MAX_TOKEN_CHARACTERS)
    return [length for length in (8 * max_tokens, 24 * max_tokens) if length < limit] + [limit]


def find_word_end(text: str, position: int) -> int | None:
    """The last end of a word in the 200 characters up to a position, where every tokenizer cuts; None if none is."""
    for i in range(position, max(position - 200, 0), -1):
        if text[i - 1].isalnum() and unicodedata.category(text[i]) in _NO_WORD:
            return i
    return None


def truncate_tokens(encoding: Encoding, max_tokens: int) -> Encoding:
    """Keep the first `max_tokens` tokens; a text without any becomes one unknown token."""
    return Encoding(encoding.ids[:max_tokens] or [UNK_ID], encoding.offsets[:max_tokens] or [(0, 0)])


def pad_rows(rows: list[Tensor], padding_value: float) -> tuple[Tensor, Tensor]:
    """Stack rows (T_i, ...) to (N, T, ...); returns them and their lengths, int64 (N,)."""
    return pad_sequence(rows, batch_first=True, padding_value=padding_value), torch.tensor([len(row) for row in rows])
