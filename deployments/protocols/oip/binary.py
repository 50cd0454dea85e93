"""Tensors as raw bytes: the protocol's binary form, row-major and little-endian, without a copy where that is safe.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md; gRPC's
raw_input_contents are the same. A text is its length (uint32) and its bytes. Sizes are compared before anything is
read, so that what a body claims never decides how much memory is taken.
"""
# Shapes: B rows of one request.

import math
import struct
import sys

import numpy as np

from deployments.errors import InvalidShape, InvalidType, MalformedBody
from deployments.protocols.arrays import NUMPY, Array, check_finite
from training.bundle.datatypes import Datatype

assert sys.byteorder == "little", "the protocol's bytes are little-endian, and so must this machine be"

_LENGTH = struct.Struct("<I")
# 16 digits are more than any body has, and few enough to be read at once.
_MAX_DIGITS = 16


def parse_header_length(sent: bytes, body_size: int) -> int | None:
    """Read `Inference-Header-Content-Length`: how many bytes of a body are JSON; None where it was not sent.

    Raises:
        MalformedBody: it is no such number.
    """
    if not sent:
        return None
    if not sent.isdigit() or len(sent) > _MAX_DIGITS:
        raise MalformedBody(
            f"Inference-Header-Content-Length is {sent[:40].decode('latin-1')!r}; send how many bytes the JSON part has"
        )
    length = int(sent)
    if not 0 < length <= body_size:
        raise MalformedBody(
            f"Inference-Header-Content-Length is {length}, the body has {body_size} bytes; the JSON part comes first "
            "and has 1 byte at least"
        )
    return length


def read_tensor(body: bytes, start: int, datatype: Datatype, shape: tuple[int, ...], *, nan: bool = False) -> Array:
    """Take the rest of a body as one array; BF16 as float32, which holds it exactly.

    Args:
        body: the whole body.
        start: where the tensor's bytes begin.
        datatype: of its elements.
        shape: of it; bounded by the caller.
        nan: whether NaN is a value here (a missing one).

    Raises:
        WrongShape: the bytes are not those of this shape.
        WrongType: a BOOL that is neither 0 nor 1.
        NotFinite: NaN or infinity.
    """
    stored = np.dtype(np.uint16) if datatype == "BF16" else NUMPY[datatype]
    count = math.prod(shape)
    size = len(body) - start
    if size != count * stored.itemsize:
        raise InvalidShape(
            f"{size} bytes of {datatype} were sent; its shape {list(shape)} wants {count * stored.itemsize}"
        )
    if datatype == "BOOL":
        stored = np.dtype(np.uint8)
    array = np.frombuffer(body, stored, count, start)
    if not array.flags.aligned:
        # Vectorised kernels may rely on an element's own alignment: where the JSON part's length breaks it, copy.
        array = array.copy()
    if datatype == "BOOL":
        if array.max(initial=0) > 1:
            raise InvalidType("a BOOL is neither 0 nor 1; send one byte of either")
        array = array.view(np.bool_)
    if datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    check_finite(array, datatype, nan=nan)
    return array.reshape(shape)


def write_tensor(y: Array, datatype: Datatype) -> bytes:
    """The bytes of an array, row-major."""
    if datatype == "BF16":
        y = (np.ascontiguousarray(y).view(np.uint32) >> 16).astype(np.uint16)
    return y.tobytes()


def read_texts(body: bytes, start: int, count: int) -> list[str]:
    """Take the rest of a body as so many texts.

    Raises:
        WrongShape: there are more or fewer, or one is cut short.
        WrongType: one is no UTF-8.
    """
    texts: list[str] = []
    end = len(body)
    while start < end:
        if len(texts) == count:
            raise InvalidShape(f"{end - start} bytes are left over after {count} texts, which is what the shape says")
        at = start + _LENGTH.size
        length = _LENGTH.unpack_from(body, start)[0] if at <= end else 0
        start = at + length
        if start > end:
            raise InvalidShape(
                f"text {len(texts)} is cut short; each is its length (4 bytes, little-endian) and its bytes"
            )
        texts.append(decode_text(body[at:start], len(texts)))
    if len(texts) != count:
        raise InvalidShape(f"{len(texts)} texts were sent; the shape says {count}")
    return texts


def decode_text(raw: bytes, index: int) -> str:
    """Decode one text; raises WrongType where it is no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidType(f"text {index} is not UTF-8; send texts in UTF-8") from None


def write_texts(texts: list[bytes]) -> bytes:
    """Write texts, each as its length and its bytes."""
    return b"".join(part for each in texts for part in (_LENGTH.pack(len(each)), each))
