"""Checks of an input's values that its schema asks for and its datatype does not: tokens, categories, padding.

`predict` cannot make such rows; a tensor's bytes can hold them, and a net would answer: an index that is no category's
is encoded as a missing one, and a gap in a series as the end of it.
"""
# Shapes: B rows, F features, T time steps, G features with categories.

from collections.abc import Callable

import numpy as np

from deployments.errors import InvalidType
from deployments.protocols.arrays import Array
from training.schema import InputSchema, SeriesInput, TableInput

# Of so few rows each value is looked up, which takes a fraction of what numpy does.
_FEW_ROWS = 8

InputCheck = Callable[[Array], None]
"""Raises InvalidType for the first value that means nothing, by its row."""


def build_input_check(name: str, schema: InputSchema, vocab_size: int | None) -> InputCheck | None:
    """Build the check of a model's input.

    Args:
        name: of the input, for messages.
        schema: of its rows.
        vocab_size: number of tokens, for a model of texts.

    Returns:
        None where every value of the datatype is valid.
    """
    if vocab_size is not None:
        return lambda x: _check_tokens(name, x, vocab_size)
    if isinstance(schema, SeriesInput):
        return lambda x: _check_padding(name, x)
    if isinstance(schema, TableInput) and any(feature.categories for feature in schema.features):
        return CategoryCheck(schema).check
    return None


class CategoryCheck:
    """Checks that a category is the index of one, or where it may be missing, NaN."""

    def __init__(self, schema: TableInput) -> None:
        self._schema = schema
        counts = [(index, len(each.categories)) for index, each in enumerate(schema.features) if each.categories]
        self._columns_G, self._counts_G = np.array(counts).T
        # 1.0 is found where 1 is.
        self._valid = [(index, frozenset(range(count))) for index, count in counts]

    def check(self, x_BF: Array) -> None:
        """See InputCheck."""
        if len(x_BF) <= _FEW_ROWS and all(row[index] in valid for row in x_BF.tolist() for index, valid in self._valid):
            return
        codes_BG = x_BF[:, self._columns_G]
        is_valid = (codes_BG >= 0) & (codes_BG < self._counts_G) & (codes_BG == np.floor(codes_BG))
        if self._schema.allow_missing:
            is_valid |= np.isnan(codes_BG)
        if is_valid.all():
            return
        row, column = np.argwhere(~is_valid)[0].tolist()
        feature = self._schema.features[self._columns_G[column]]
        missing = ", or NaN where it is missing" if self._schema.allow_missing else ""
        raise InvalidType(
            f"row {row}: {feature.name!r} is {codes_BG[row, column]}; send a category's index, 0 to "
            f"{self._counts_G[column] - 1}{missing}"
        )


def _check_tokens(name: str, x: Array, vocab_size: int) -> None:
    if x.min() < 0 or x.max() >= vocab_size:
        raise InvalidType(f"input {name!r} has a token outside 0 to {vocab_size - 1}")


def _check_padding(name: str, x_BTF: Array) -> None:
    """A series may be padded at its end, with time steps of nothing but NaN; it has one step at least."""
    if x_BTF.dtype.kind != "f":
        return
    nan_BTF = np.isnan(x_BTF)
    if 1 not in nan_BTF.tobytes():
        return
    padding_BT: Array = np.all(nan_BTF, axis=2)
    gaps_BT: Array = np.any(nan_BTF, axis=2) & ~padding_BT
    # A step of padding before one of values, or a first one.
    gaps_BT[:, 0] |= padding_BT[:, 0]
    gaps_BT[:, :-1] |= padding_BT[:, :-1] & ~padding_BT[:, 1:]
    if gaps_BT.any():
        row, time_step = np.argwhere(gaps_BT)[0].tolist()
        raise InvalidType(
            f"row {row}: time step {time_step} of input {name!r} is NaN; a series has no missing values, and only "
            "steps of all NaN at its end pad it"
        )
