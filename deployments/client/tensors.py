"""Arrays to Open Inference Protocol requests and back: values as bytes behind the JSON, or in it.

https://github.com/kserve/open-inference-protocol, "Binary Tensor Data Extension". Values are little-endian and
row-major; an element of BYTES is its length in four bytes, then itself.
"""

import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Headers = list[tuple[bytes, bytes]]

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
HEADER_LENGTH = b"inference-header-content-length"
_JSON: Headers = [(b"content-type", b"application/json")]
_ENCODER = msgspec.json.Encoder()


def encode(inputs: Mapping[str, Array], outputs: list[str] | None, binary: bool) -> tuple[bytes, Headers]:
    """Write a request; returns its body and the headers that belong to it.

    Raises:
        TypeError: an array of a type that the protocol does not have.
    """
    tensors: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = [b""]
    for name, array in inputs.items():
        datatype = _datatype(name, array)
        tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
        tensors.append(tensor)
        if binary:
            raw = _raw(array, datatype)
            parts.append(raw)
            tensor["parameters"] = {"binary_data_size": len(raw)}
        else:
            tensor["data"] = array.ravel().tolist()
    request: dict[str, Any] = {"inputs": tensors}
    if outputs is not None:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    if not binary:
        return _ENCODER.encode(request), _JSON
    if outputs is None:
        request["parameters"] = {"binary_data_output": True}
    parts[0] = head = _ENCODER.encode(request)
    return b"".join(parts), [(b"content-type", b"application/octet-stream"), (HEADER_LENGTH, b"%d" % len(head))]


def decode(body: bytes, header_bytes: int | None) -> dict[str, Array]:
    """Read an answer's outputs; `header_bytes` is the length of its JSON, where values follow behind it.

    The arrays are views of the body where its bytes allow it, and cannot be written to then.
    """
    head = body if header_bytes is None else memoryview(body)[:header_bytes]
    at, found = len(head), {}
    for output in msgspec.json.decode(head)["outputs"]:
        datatype, shape = output["datatype"], output["shape"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = _from_json(output["data"], datatype)
        else:
            flat = _from_raw(memoryview(body)[at : at + size], datatype)
            at += size
        found[output["name"]] = flat.reshape(shape)
    return found


def _datatype(name: str, array: Array) -> str:
    if array.dtype.kind in "OSU":
        return "BYTES"
    datatype = _NAMES.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise TypeError(f"{name!r} is of type {array.dtype}; make it one of {', '.join(map(str, _NAMES))}, or texts")
    return datatype


def _raw(array: Array, datatype: str) -> bytes | memoryview:
    if datatype == "BYTES":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
        return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))
    # A view where it has this form already, which it mostly has.
    return np.ascontiguousarray(array, DATATYPES[datatype]).reshape(-1).view(np.uint8).data


def _from_raw(raw: memoryview, datatype: str) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(raw, DATATYPES[datatype])
    items, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        items.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return _texts(items)


def _from_json(data: list[Any], datatype: str) -> Array:
    if datatype == "BYTES":
        return _texts([item.encode() for item in data])
    return np.array(data, DATATYPES[datatype])


def _texts(items: list[bytes]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array
