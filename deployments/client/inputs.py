"""Inputs of `predict`, as a program has them: lists, arrays, frames, images; to JSON that means the same.

What is missing (None, NaN, NaT, masked) becomes null. What JSON has no value for is refused by row and name: msgspec
would write infinity as null, which a model takes for missing, and dates, UUIDs and any bytes as texts.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.client.tensors import Headers
from deployments.protocols.arrays import Array
from training.data import image_types
from training.data.values import is_missing

_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({list, tuple, dict})
_JSON_TYPES = _SCALARS | _CONTAINERS
# Of these, subclasses are sent as what they extend.
_SUBCLASSED: tuple[Any, ...] = (str, int, float)
# Deeper lists are msgspec's to refuse.
_MAX_DEPTH = 32


class Frame(Protocol):
    """A frame of pandas or polars, which this package does not import; its rows are records."""

    @property
    def columns(self) -> Any:
        """Names of its columns."""


Inputs = list[Any] | tuple[Any, ...] | bytes | NDArray[Any] | Frame


CLIENT_OPTIONS = {"timeout", "priority", "retries", "verify"}


def encode_predict(inputs: Inputs, options: Mapping[str, Any]) -> tuple[bytes, Headers]:
    """Encode a `predict` request: an image file as it is, everything else as JSON.

    Raises:
        TypeError: JSON has no value for an input, or an option is one of the client.
        ValueError: an input is infinite.
    """
    if misplaced := sorted(CLIENT_OPTIONS & options.keys()):
        raise TypeError(f"{', '.join(misplaced)}: of the client and not of a call; Client({misplaced[0]}=...)")
    if isinstance(inputs, bytes | bytearray | memoryview):
        content = bytes(inputs)
        if not options:
            image_type = image_types.detect(content)
            media_type = image_type.media_type if image_type else "application/octet-stream"
            return content, [(b"content-type", media_type.encode())]
        inputs = [content]
    if isinstance(inputs, str):
        raise TypeError("inputs is one text; send a list of texts, one for each row")
    rows = _frame_to_records(inputs)
    is_json = _is_json(rows)
    if not is_json:
        rows = _to_json(rows, "")
    fields = {name: _to_json(value, f"option {name!r}") for name, value in options.items()}
    # It encodes an image's bytes as base64.
    body = msgspec.json.encode({"inputs": rows, **fields})
    if is_json and b"null" in body and _has_infinity(rows):
        _to_json(rows, "")  # which raises
    return body, [(b"content-type", b"application/json")]


def _is_json(rows: Any) -> bool:
    """Whether there are JSON's own types only."""
    return all(kinds <= _JSON_TYPES for _, kinds in _iter_levels(rows))


def _has_infinity(rows: Any) -> bool:
    return any(math.inf in values or -math.inf in values for values, _ in _iter_levels(rows))


def _iter_levels(rows: Any) -> Iterator[tuple[list[Any], set[type]]]:
    """Yield the values of each level of nested lists and dicts, and their types: a call for each would take long."""
    values = [rows]
    for _ in range(_MAX_DEPTH):
        kinds = set(map(type, values))
        yield values, kinds
        if kinds.isdisjoint(_CONTAINERS):
            return
        inner: list[Any] = []
        for value in values:
            if type(value) is dict:
                inner.extend(value.values())
            elif type(value) in _CONTAINERS:
                inner.extend(value)
        values = inner


def _to_json(value: Any, place: str) -> Any:
    """Convert to what msgspec encodes as it is meant; `place` is for messages."""
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{place} is {value}; JSON has no infinity: send a number, or None where it is missing")
    if type(value) in _SCALARS:
        return value
    if isinstance(value, dict):
        return {key: _to_json(each, _describe_place(place, key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each, _describe_place(place, index)) for index, each in enumerate(value)]
    if isinstance(value, np.ndarray):
        return _array_to_json(value, place)
    if isinstance(value, bytes | bytearray | memoryview):
        return _require_image(bytes(value), place)
    if is_missing(value):
        return None
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return _to_json(value.item(), place)
    if isinstance(value, Decimal):
        whole = value == value.to_integral_value() and abs(value) < Decimal(2**64)
        return int(value) if whole else _to_json(float(value), place)
    for scalar in _SUBCLASSED:
        # msgspec takes no subclasses but enumerations.
        if isinstance(value, scalar):
            return value if isinstance(value, Enum) else scalar.__new__(scalar, value)
    raise TypeError(
        f"{place} is {value!r:.80}, a {type(value).__name__}, which JSON does not have; send a number, a text, or None "
        "where it is missing"
    )


def _array_to_json(array: Array, place: str) -> Any:
    """Convert an array; numbers and texts at once, anything else one by one."""
    if not array.ndim:
        return _to_json(array.tolist() if array.dtype.kind in "biufU" else array[()], place)
    if array.dtype.kind not in "biufU" or (array.dtype.itemsize > 8 and array.dtype.kind == "f"):
        return [_to_json(each, _describe_place(place, index)) for index, each in enumerate(array)]
    if array.dtype.kind == "f" and (infinite := np.isinf(array)).any():
        for index in np.argwhere(infinite)[0].tolist():
            array, place = array[index], _describe_place(place, index)
        _to_json(float(array), place)
    return array.tolist()


def _require_image(content: bytes, place: str) -> bytes:
    """Return an image's bytes; JSON has no others, and sent as base64 they would be taken for a text."""
    image_type = image_types.detect(content)
    if image_type is None or not image_type.is_served:
        formats = ", ".join(each.pillow_format for each in image_types.SERVED_IMAGE_TYPES)
        raise TypeError(f"{place} is {len(content)} bytes, which are no {formats} image; send a text as str")
    return content


def _describe_place(place: str, key: Any) -> str:
    if not place:
        return f"row {key}"
    return f"{place}, element {key}" if isinstance(key, int) else f"{place}, {key!r}"


def _frame_to_records(inputs: Any) -> Any:
    """Turn a frame into records and a series into values, missing ones into null; return anything else as it is."""
    if hasattr(inputs, "to_dicts"):  # polars
        return [
            {name: None if is_missing(value) else value for name, value in row.items()} for row in inputs.to_dicts()
        ]
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):  # pandas: NaN, NaT and pd.NA alike
        if not inputs.columns.is_unique:
            twice = inputs.columns[inputs.columns.duplicated()][0]
            raise TypeError(f"the frame has two columns {twice!r}, and a record has one; rename or drop one")
        return inputs.astype(object).where(inputs.notna(), None).to_dict("records")
    if hasattr(inputs, "to_list"):
        return inputs.to_list()
    return inputs
