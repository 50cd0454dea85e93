"""Decoded size: what a request takes in memory, bounded before it is allocated, however small its body is."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from deployments.errors import PayloadTooLarge
from deployments.protocols.arrays import Rows
from training.bundle.datatypes import numpy_dtype
from training.bundle.manifest import TensorSpec

JSON_VALUE_BYTES = 64
"""What a value of a JSON body takes as a Python object, with its place in a list."""


def check_decoded_size(size: int, limit: int, what: str) -> None:
    """Raise PayloadTooLarge where a request would take more memory than its limit.

    Args:
        size: bytes.
        limit: Limits.max_decoded_bytes.
        what: what takes them, for the message.
    """
    if size > limit:
        raise PayloadTooLarge(f"{what} would take {size} bytes; the limit is {limit}; send several requests")


def check_tensor_size(shape: Sequence[int], itemsize: int, limit: int) -> None:
    """Raise PayloadTooLarge for a tensor that is larger than the limit."""
    size = math.prod(shape) * itemsize
    if size > limit:
        check_decoded_size(size, limit, f"a tensor of shape {list(shape)}")


def check_json_size(body: bytes | memoryview, limit: int) -> None:
    """Raise PayloadTooLarge for JSON of more values than the limit holds; nothing is decoded."""
    if len(body) * JSON_VALUE_BYTES <= limit:
        return
    content = bytes(body)
    values = 1 + sum(map(content.count, (b",", b"[", b"{")))
    check_decoded_size(values * JSON_VALUE_BYTES, limit, f"JSON of {values} values")


class _Requested(Protocol):
    """An output that a request asks for."""

    @property
    def index(self) -> int:
        """Among the net's outputs."""

    @property
    def is_json(self) -> bool:
        """Whether each of its elements is a value of the response's JSON."""


class OutputSizes:
    """What the net's outputs take: a few tokens can have as many scores as the vocabulary has words, each."""

    def __init__(self, outputs: Sequence[TensorSpec], limit: int) -> None:
        """Make one of a net's outputs.

        Args:
            outputs: their shapes; a dimension that is not known is the time axis.
            limit: Limits.max_decoded_bytes.
        """
        self._limit = limit
        self._elements = [math.prod(size for size in spec.shape[1:] if size > 0) for spec in outputs]
        self._bytes = [
            count * numpy_dtype(spec.datatype).itemsize for count, spec in zip(self._elements, outputs, strict=True)
        ]
        self._has_time_axis = [any(size < 0 for size in spec.shape[1:]) for spec in outputs]
        self._has_any_time_axis = any(self._has_time_axis)
        # For most requests, nothing else is computed.
        self._most_bytes = sum(self._bytes) + JSON_VALUE_BYTES * sum(self._elements)

    def check(self, rows: Rows, requested: Iterable[_Requested] = ()) -> None:
        """Raise PayloadTooLarge where the outputs for a request would take more than its limit.

        Args:
            rows: of the request.
            requested: outputs whose elements the response holds; none where it holds predictions.
        """
        count = len(rows)
        steps = _find_longest(rows) if self._has_any_time_axis else 1
        if count * steps * self._most_bytes <= self._limit:
            return
        sizes = [
            count * size * (steps if has_time_axis else 1)
            for size, has_time_axis in zip(self._bytes, self._has_time_axis, strict=True)
        ]
        values = sum(
            count * self._elements[each.index] * (steps if self._has_time_axis[each.index] else 1)
            for each in requested
            if each.is_json
        )
        what = f"the outputs of {count} rows" + (f" of {steps} time steps" if self._has_any_time_axis else "")
        check_decoded_size(sum(sizes) + JSON_VALUE_BYTES * values, self._limit, what)


def _find_longest(rows: Rows) -> int:
    if isinstance(rows, list):
        return max(map(len, rows), default=0)
    return rows.shape[1] if rows.ndim > 1 else 1
