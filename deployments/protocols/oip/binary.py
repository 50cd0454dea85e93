"""The protocol's binary form of tensors: row-major, little-endian bytes behind the JSON; one codec, server and client.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md; gRPC's
raw_input_contents are the same. An element of BYTES is its length (uint32) and its bytes. Sizes are compared before
anything is read, so that a length in a body never decides how much memory is allocated. Imports neither torch nor Ray.
"""

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.errors import InvalidShape, InvalidType, MalformedBody
from deployments.protocols.arrays import Array, round_to_bfloat16, widen_bfloat16
from training.bundle.datatypes import DATATYPES, Datatype, numpy_dtype

assert sys.byteorder == "little", "the protocol's bytes are little-endian, and so must this machine be"

HEADER_LENGTH = b"inference-header-content-length"
"""The HTTP header with the length of the JSON part."""

Buffer = bytes | memoryview

_LENGTH = struct.Struct("<I")
# 16 digits are more than any body needs, and few enough to convert at once.
_MAX_DIGITS = 16
# Where the bytes begin, so that an array of any datatype is a view of them.
_ALIGNMENT = 8
# Read as integers first: numpy has no bfloat16, and would take any byte for a boolean.
_READ_AS: dict[Datatype, np.dtype[Any]] = {"BF16": np.dtype(np.uint16), "BOOL": np.dtype(np.uint8)}


def parse_header_length(header: bytes, body_size: int) -> int | None:
    """Parse `Inference-Header-Content-Length`, the bytes of a body's JSON part; None where it was not sent.

    Raises:
        MalformedBody: it is no such number.
    """
    if not header:
        return None
    if not header.isdigit() or len(header) > _MAX_DIGITS:
        raise MalformedBody(
            f"Inference-Header-Content-Length is {header[:40].decode('latin-1')!r}; "
            "send the JSON part's number of bytes"
        )
    length = int(header)
    if not 0 < length <= body_size:
        raise MalformedBody(
            f"Inference-Header-Content-Length is {length}, the body has {body_size} bytes; the JSON part comes first "
            "and has at least 1 byte"
        )
    return length


def join_parts(header: bytes, parts: Sequence[Buffer]) -> tuple[bytes, int]:
    """Join a body's JSON part, padded with spaces to an alignment, and the bytes of its tensors.

    Returns:
        The body, and the length of its JSON part.
    """
    header += b" " * (-len(header) % _ALIGNMENT)
    return b"".join((header, *parts)), len(header)


def encode_tensor(array: Array, datatype: Datatype) -> Buffer:
    """Encode an array; a view of it where it is row-major and little-endian already."""
    array = np.ascontiguousarray(array, numpy_dtype(datatype))
    if datatype == "BF16":
        array = round_to_bfloat16(array)
    # An empty view cannot be cast.
    return array.data.cast("B") if array.size else b""


def decode_tensor(data: Buffer, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    """Decode the bytes of one tensor; BF16 to float32, which holds it exactly.

    Where the bytes are aligned, the array is a read-only view of them: neither nets nor codecs write to their inputs.

    Args:
        data: all bytes of the tensor, and no others.
        datatype: of its elements.
        shape: of it; the caller has limited it.

    Raises:
        InvalidShape: the shape needs another number of bytes.
        InvalidType: a BOOL that is neither 0 nor 1.
    """
    count = math.prod(shape)
    size = count * DATATYPES[datatype].itemsize
    if len(data) != size:
        raise InvalidShape(f"{len(data)} bytes of {datatype} were sent; its shape {list(shape)} needs {size}")
    array: Array = np.frombuffer(data, _READ_AS.get(datatype, numpy_dtype(datatype)), count)
    if not array.flags.aligned:
        # Vectorized kernels may rely on an element's own alignment; the JSON part's length can break it.
        array = array.copy()
    if datatype == "BOOL":
        if array.max(initial=0) > 1:
            raise InvalidType("a BOOL is neither 0 nor 1; send one byte of either")
        array = array.view(np.bool_)
    elif datatype == "BF16":
        array = widen_bfloat16(array)
    return array.reshape(shape)


def encode_texts(texts: Sequence[bytes]) -> bytes:
    """Encode elements of BYTES, each as its length and itself."""
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def decode_byte_strings(data: Buffer, count: int) -> list[bytes]:
    """Decode the elements of a BYTES tensor.

    Args:
        data: all bytes of the tensor, and no others.
        count: of its elements.

    Raises:
        InvalidShape: there are more or fewer, or one is cut off.
    """
    elements: list[bytes] = []
    start, end = 0, len(data)
    while start < end:
        if len(elements) == count:
            raise InvalidShape(f"{end - start} bytes are left over after {count} texts, the number in the shape")
        first = start + _LENGTH.size
        length = _LENGTH.unpack_from(data, start)[0] if first <= end else 0
        start = first + length
        if start > end:
            raise InvalidShape(
                f"text {len(elements)} is cut off; each is its length (4 bytes, little-endian) and its bytes"
            )
        elements.append(bytes(data[first:start]))
    if len(elements) != count:
        raise InvalidShape(f"{len(elements)} texts were sent; the shape has {count}")
    return elements


def decode_texts(data: Buffer, count: int) -> list[str]:
    """Decode the elements of a BYTES tensor as texts.

    Raises:
        InvalidShape: see decode_byte_strings.
        InvalidType: one is not UTF-8.
    """
    texts: list[str] = []
    for element in decode_byte_strings(data, count):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise InvalidType(f"text {len(texts)} is not UTF-8; send texts in UTF-8") from None
    return texts
