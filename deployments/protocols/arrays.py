"""JSON lists to arrays, strictly: one length per axis, one type, in range, finite. For raw bytes see `binary`.

Serve pickles what its class refers to, and msgspec's decoders do not pickle: that is why they live in a module.
"""

from functools import cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.errors import InvalidShape, InvalidType, MalformedBody, NotFinite
from training.bundle.datatypes import Datatype

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = Array | list[Array]
"""Rows of one request: (B, ...) where they are alike, else one array (T_i, ...) for each."""

Outputs: TypeAlias = tuple[Array, ...]
"""What the net gives for them, each (B, ...)."""

NUMPY: dict[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    # numpy knows no bfloat16: between the codec and the net its values are float32.
    "BF16": np.dtype(np.float32),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}


@cache
def _decoder(kind: str, depth: int) -> "msgspec.json.Decoder[Any]":
    """A decoder of lists, `depth` deep, of the JSON type that a numpy kind takes."""
    wanted: Any = {"b": bool, "f": float}.get(kind, int)
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def parse_json_array(raw: bytes | msgspec.Raw, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    """Read a JSON list, flat or nested as `shape` says, into an array of that shape.

    Raises:
        WrongShape: rows of unequal length, or another number of values than the shape has.
        WrongType: a value of another JSON type, or out of the datatype's range.
        NotFinite: NaN or infinity.
    """
    dtype = NUMPY[datatype]
    try:
        values = _decoder(dtype.kind, 1).decode(raw)
    except (msgspec.ValidationError, RecursionError) as flat:
        if len(shape) < 2:
            raise InvalidType(f"data is not a flat list of {datatype}: {_describe_error(flat)}") from None
        try:
            values = _decoder(dtype.kind, len(shape)).decode(raw)
        except (msgspec.ValidationError, RecursionError) as nested:
            raise InvalidType(
                f"data is neither flat nor nested as its shape {list(shape)} says, in {datatype}: {_describe_error(nested)}"
            ) from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"data is not JSON: {error}") from None
    return reshape_checked(to_array(values, datatype), shape)


def to_array(values: list[Any], datatype: Datatype) -> Array:
    """Turn lists of numbers into an array of one datatype; checks lengths, range and finiteness."""
    try:
        # The overflow of a float to infinity is told below, with the other values that are not finite.
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=NUMPY[datatype])
    except OverflowError:
        raise InvalidType(f"a value is out of the range of {datatype}") from None
    except ValueError:
        raise InvalidShape("rows are of unequal length; make them all the same") from None
    check_finite(_round_to_bf16(array) if datatype == "BF16" else array, datatype)
    return array


def check_finite(array: Array, datatype: Datatype, *, nan: bool = False) -> None:
    """Raise NotFinite where floats hold infinity, or NaN unless that is a value here (a missing one)."""
    # A byte for each number, 0 where it is wrong; `all` takes three times as long for a short row.
    if array.dtype.kind == "f" and 0 in (~np.isinf(array) if nan else np.isfinite(array)).tobytes():
        raise NotFinite(f"a value is not finite in {datatype}; this model takes finite numbers only")


def _round_to_bf16(array: Array) -> Array:
    """The float32 values that bfloat16 holds: half of the last bit that it drops is added before it does."""
    with np.errstate(over="ignore"):
        return ((array.view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def reshape_checked(array: Array, shape: tuple[int, ...]) -> Array:
    """Give an array its shape; a nested one must have it already."""
    if array.ndim > 1 and array.shape != shape:
        raise InvalidShape(f"data is nested as {list(array.shape)}, its shape says {list(shape)}")
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidShape(f"data has {array.size} values, its shape {list(shape)} wants another number") from None


def _describe_error(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
