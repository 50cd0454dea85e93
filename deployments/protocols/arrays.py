"""JSON lists to arrays, strictly: one length per axis, one type, in range, finite. Raw bytes are oip/binary.py's.

Imports neither torch nor Ray, so that the client may use it.
Ray Serve pickles what a deployment's class refers to, and msgspec's decoders cannot be pickled: they are globals here.
"""
# Shapes: B rows of one request, T_i time steps of row i.

import math
import re
import struct
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.errors import InvalidShape, InvalidType, MalformedBody, NotFinite
from training.bundle.datatypes import DATATYPES, Datatype, numpy_dtype

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = Array | list[Array]
"""Rows of one request: (B, ...) where all have one shape, else one array (T_i, ...) for each."""

Outputs: TypeAlias = tuple[Array, ...]
"""The net's outputs for them, each (B, ...)."""

# Lists up to here are packed; above, numpy's own loop costs little beside the numbers.
MAX_PACKED = 4096


@cache
def _list_decoder(dtype_kind: str, depth: int) -> "msgspec.json.Decoder[Any]":
    """Return a decoder of lists, nested `depth` deep, of the JSON type of a numpy dtype's kind."""
    json_type: Any = {"b": bool, "f": float}.get(dtype_kind, int)
    for _ in range(depth):
        json_type = list[json_type]
    return msgspec.json.Decoder(json_type)


def parse_json_array(data: bytes | msgspec.Raw, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    """Decode a JSON list, flat or nested as `shape`, into an array of that shape.

    Raises:
        InvalidShape: rows of unequal length, or another number of values than the shape has.
        InvalidType: a value of another JSON type, or out of the datatype's range.
        NotFinite: NaN or infinity.
    """
    kind = numpy_dtype(datatype).kind
    try:
        values = _list_decoder(kind, 1).decode(data)
    except (msgspec.ValidationError, RecursionError) as flat_error:
        if len(shape) < 2:
            raise InvalidType(
                f"data is not a flat list of {datatype}: {describe_json_error(flat_error, data)}"
            ) from None
        try:
            values = _list_decoder(kind, len(shape)).decode(data)
        except (msgspec.ValidationError, RecursionError) as nested_error:
            raise InvalidType(
                f"data is not a list of {datatype}, flat or nested as its shape {list(shape)}: "
                f"{describe_json_error(nested_error, data)}"
            ) from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"data is not JSON: {describe_json_error(error, data)}") from None
    array = _pack_small_floats(values, datatype)
    if array is None:
        array = _convert_small_numbers(values, datatype)
    if array is None:
        array = _convert_numbers(values, datatype)
        if _may_be_inexact(array, datatype):
            # Decoded once more, since the decoder has made floats of integers.
            check_exact(_flatten(msgspec.json.decode(data)), datatype)
    return reshape_array(array, shape)


def to_exact_array(values: list[Any], datatype: Datatype) -> Array:
    """Convert as `to_array`, and check that every whole number stays what it is."""
    array = _convert_small_numbers(values, datatype)
    if array is None:
        array = _convert_numbers(values, datatype)
        if _may_be_inexact(array, datatype):
            check_exact(_flatten(values), datatype)
    return array


def to_array(values: list[Any], datatype: Datatype, *, allow_nan: bool = False) -> Array:
    """Convert lists of numbers to an array of one datatype; checks lengths, range and finiteness."""
    array = _convert_small_numbers(values, datatype)
    return _convert_numbers(values, datatype, allow_nan=allow_nan) if array is None else array


def _pack_small_floats(values: list[Any], datatype: Datatype) -> Array | None:
    """Do as _convert_small_numbers in a third of its time, for a flat list of floats that is not too long."""
    limit = max_exact_integer(datatype)
    # A norm is at least as large as each of its numbers, and NaN where one is.
    if limit is None or not 0 < len(values) <= MAX_PACKED or type(values[0]) is list or not math.hypot(*values) < limit:
        return None
    dtype = numpy_dtype(datatype)
    return np.frombuffer(_make_packer(len(values), dtype.char).pack(*values), dtype)


@lru_cache(1024)
def _make_packer(count: int, char: str) -> struct.Struct:
    return struct.Struct(f"<{count}{char}")


def _convert_small_numbers(values: list[Any], datatype: Datatype) -> Array | None:
    """Convert numbers to a float type, where all are so small that they need no other check; None where not.

    What is smaller than the type's largest exact whole number is finite, in range, and rounded as fractions are. It is
    found in one pass, a third of the time of the single checks.
    """
    limit = max_exact_integer(datatype)
    if limit is None:
        return None
    try:
        array = np.array(values, np.float64)
    except (OverflowError, ValueError):
        return None
    # NaN is smaller than nothing.
    if array.size and np.maximum.reduce(np.absolute(array), axis=None) < limit:
        return array.astype(numpy_dtype(datatype), copy=False)
    return None


def _convert_numbers(values: list[Any], datatype: Datatype, *, allow_nan: bool = False) -> Array:
    try:
        # The overflow of a float to infinity is refused below, with the other values that are not finite.
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=numpy_dtype(datatype))
    except OverflowError:
        raise InvalidType(f"a value is out of the range of {datatype}") from None
    except ValueError:
        raise InvalidShape("rows have unequal lengths; make them equal") from None
    # bfloat16 is held as float32, which has the same range but rounds its largest values to other numbers.
    rounded = widen_bfloat16(round_to_bfloat16(array)) if datatype == "BF16" else array
    check_finite(rounded, datatype, allow_nan=allow_nan)
    return array


def check_exact(values: Iterable[Any], datatype: Datatype) -> None:
    """Raise InvalidType for a whole number that a float type does not hold: two different ones would become the same.

    It may be spelled 16777217 or 16777217.0, as tools write a column of whole numbers of which one is missing.
    Fractions are measured values, and are rounded as always.
    """
    limit = max_exact_integer(datatype)
    if limit is None:
        return
    for value in values:
        if -limit <= value <= limit or (type(value) is float and not value.is_integer()):
            continue
        try:
            rounded = round_number(value, datatype)
        except OverflowError:
            raise InvalidType(f"a value is out of the range of {datatype}") from None
        if math.isfinite(rounded) and int(rounded) != value:
            raise InvalidType(
                f"{int(value)} would become {int(rounded)} in {datatype}, in which this model computes; send a number "
                "that it holds"
            )


@cache
def max_exact_integer(datatype: Datatype) -> int | None:
    """A float type holds every whole number up to this one; None for the types that hold whole numbers only."""
    exact_bits = DATATYPES[datatype].exact_bits
    return None if exact_bits is None else 2**exact_bits


def round_number(value: float, datatype: Datatype) -> float:
    """What a number becomes in a float type; raises OverflowError for an integer beyond its range."""
    with np.errstate(over="ignore"):
        rounded = np.array([value], numpy_dtype(datatype))
    return float((widen_bfloat16(round_to_bfloat16(rounded)) if datatype == "BF16" else rounded)[0])


def _may_be_inexact(array: Array, datatype: Datatype) -> bool:
    """Whether there are floats so large that their type does not hold every whole number up to them."""
    limit = max_exact_integer(datatype)
    return limit is not None and bool((np.abs(array) >= limit).any())


def _flatten(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) is list:
            yield from _flatten(value)
        else:
            yield value


def check_finite(array: Array, datatype: Datatype, *, allow_nan: bool = False) -> None:
    """Raise NotFinite where floats hold infinity, or NaN unless that stands for a missing value."""
    # One byte per number, 0 where it is refused; `all` takes three times as long for a short row.
    if array.dtype.kind == "f" and 0 in (~np.isinf(array) if allow_nan else np.isfinite(array)).tobytes():
        raise NotFinite(f"a value is not finite in {datatype}; send finite numbers")


def round_to_bfloat16(array: Array) -> Array:
    """Round float32 values to bfloat16, half away from zero; returns its bits as uint16."""
    # What is added is half of the last bit that bfloat16 has.
    return ((array.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def widen_bfloat16(bits: Array) -> Array:
    """Convert bfloat16 bits (uint16) to float32, which holds every one of them exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def reshape_array(array: Array, shape: tuple[int, ...]) -> Array:
    """Reshape a flat array; a nested one must have the shape already.

    Raises:
        InvalidShape: it has another shape or number of values.
    """
    if array.ndim > 1 and array.shape != shape:
        raise InvalidShape(f"data is nested as {list(array.shape)}; its shape is {list(shape)}")
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidShape(f"data has {array.size} values; its shape {list(shape)} needs {math.prod(shape)}") from None


def describe_json_error(error: Exception, body: bytes | memoryview) -> str:
    """Say why a body is not the JSON that it should be, with a hint where Python wrote NaN into it."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    # Python's json writes NaN and Infinity, which JSON does not have.
    if "invalid character" in str(error) and (position := re.search(r"\(byte (\d+)\)", str(error))):
        start = int(position[1])
        if bytes(memoryview(body)[start : start + 3]) in (b"NaN", b"nan", b"Inf", b"inf"):
            return f"{error}: JSON has no NaN and no Infinity; write null where a value is missing"
    return str(error)
