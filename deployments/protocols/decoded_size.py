"""Decoded size: what a request takes in memory, bounded before it is allocated, however small its body is."""

import math
from collections.abc import Sequence

from deployments.errors import PayloadTooLarge

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
