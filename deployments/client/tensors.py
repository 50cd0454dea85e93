"""Arrays to Open Inference Protocol requests, and its responses to arrays; elements as bytes behind the JSON, or in it.

The bytes are protocols/oip/binary.py's, as on the server.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from deployments.protocols.arrays import Array, round_to_bfloat16, widen_bfloat16
from deployments.protocols.oip import binary
from training.bundle.datatypes import BYTES, DATATYPES, Datatype, datatype_of_numpy, numpy_dtype
from training.data.values import find_inexact, is_missing

Headers = list[tuple[bytes, bytes]]

_JSON_HEADERS: Headers = [(b"content-type", b"application/json")]
_ENCODER = msgspec.json.Encoder()


def encode_request(
    inputs: Mapping[str, Array],
    outputs: list[str] | None,
    use_binary: bool,
    datatypes: Mapping[str, Datatype] | None = None,
) -> tuple[bytes, Headers]:
    """Encode a request.

    Args:
        inputs: an array for each input.
        outputs: names of the requested outputs; None for all.
        use_binary: whether elements are sent and returned as bytes.
        datatypes: of inputs whose arrays do not show it: BF16, which is sent from float32.

    Returns:
        The body, and its headers.

    Raises:
        TypeError: the protocol has no datatype for an array.
    """
    tensors: list[dict[str, Any]] = []
    parts: list[binary.Buffer] = []
    for name, array in inputs.items():
        datatype = _choose_datatype(name, array, (datatypes or {}).get(name))
        tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
        tensors.append(tensor)
        if use_binary:
            part = _encode_texts(array) if datatype == BYTES else binary.encode_tensor(array, datatype)
            parts.append(part)
            tensor["parameters"] = {"binary_data_size": len(part)}
        else:
            tensor["data"] = _to_texts(array) if datatype == BYTES else array.ravel().tolist()
    request: dict[str, Any] = {"inputs": tensors}
    if outputs is not None:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": use_binary}} for name in outputs]
    if not use_binary:
        return _ENCODER.encode(request), _JSON_HEADERS
    if outputs is None:
        request["parameters"] = {"binary_data_output": True}
    body, header_length = binary.join_parts(_ENCODER.encode(request), parts)
    return body, [(b"content-type", b"application/octet-stream"), (binary.HEADER_LENGTH, b"%d" % header_length)]


def decode_response(body: bytes, header_length: int | None) -> dict[str, Array]:
    """Decode a response's outputs; BF16 to float32, texts to an array of bytes objects.

    Args:
        body: of the response.
        header_length: of its JSON part; None where it is the entire body.

    Returns:
        Arrays by name: views of the body where its bytes are aligned, which are read-only.

    Raises:
        InvalidShape: an output's bytes do not fit its shape.
    """
    header = body if header_length is None else memoryview(body)[:header_length]
    start, arrays = len(header), {}
    for output in msgspec.json.decode(header)["outputs"]:
        datatype, shape = output["datatype"], tuple(output["shape"])
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            arrays[output["name"]] = _from_json(output["data"], datatype, shape)
        else:
            data, start = memoryview(body)[start : start + size], start + size
            arrays[output["name"]] = _from_bytes(data, datatype, shape)
    return arrays


def to_array(values: ArrayLike, name: str) -> Array:
    """Convert an input to an array; what is masked in floats is NaN, which only a model of missing values takes.

    Raises:
        TypeError: what is masked is no float, so that no value of its type means that it is missing.
    """
    is_masked = isinstance(values, np.ma.MaskedArray)
    if isinstance(values, list | tuple):
        # numpy drops the masks of arrays in a list, too.
        is_masked = any(isinstance(each, np.ma.MaskedArray) for each in values)
    if not is_masked:
        return np.asarray(values)
    masked: Any = np.ma.asarray(values)
    if masked.dtype.kind == "f" or not np.ma.getmaskarray(masked).any():
        return np.asarray(masked.filled(np.nan) if masked.dtype.kind == "f" else masked.data)
    index = np.argwhere(np.ma.getmaskarray(masked))[0].tolist()
    raise TypeError(f"{name!r} is masked at {index}, and {masked.dtype} has no value for it; fill it, or leave it out")


def cast_to(array: Array, datatype: str) -> Array:
    """Cast an array to a datatype where that loses no more than digits of fractions; else return it as it is.

    Raises:
        TypeError: a whole number would become another one.
    """
    if datatype not in DATATYPES:
        return array
    dtype, is_bfloat16 = numpy_dtype(datatype), datatype == "BF16"
    if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, dtype, "same_kind"):
        return array
    if array.dtype == dtype and not is_bfloat16:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
        held = widen_bfloat16(round_to_bfloat16(cast)) if is_bfloat16 else cast
    inexact = find_inexact(array, held)
    if inexact is not None:
        index = tuple(int(i) for i in np.unravel_index(inexact, array.shape))
        raise TypeError(
            f"{array[index]} at {list(index)} would become {held[index]} in {datatype}, which the model takes; send "
            "numbers that it holds"
        )
    return cast


def _choose_datatype(name: str, array: Array, datatype: Datatype | None) -> Any:
    if array.dtype.kind in "OSU":
        return BYTES
    array_datatype = datatype_of_numpy(array.dtype)
    if array_datatype is None:
        raise TypeError(f"{name!r} has dtype {array.dtype}; cast it to one of {', '.join(DATATYPES)}, or send texts")
    return datatype if datatype == "BF16" and array_datatype == "FP32" else array_datatype


def _encode_texts(array: Array) -> bytes:
    return binary.encode_texts([_to_bytes(text, index) for index, text in enumerate(array.ravel())])


def _to_texts(array: Array) -> list[str]:
    """Texts for JSON, which has no bytes."""
    try:
        return [_to_bytes(text, index).decode() for index, text in enumerate(array.ravel())]
    except UnicodeDecodeError as error:
        raise TypeError(
            f"bytes that are not UTF-8 ({error}) cannot be sent as JSON; send them with binary=True"
        ) from None


def _to_bytes(text: Any, index: int) -> bytes:
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode()
    problem = "missing" if is_missing(text) else f"a {type(text).__name__}"
    raise TypeError(f"element {index} is {text!r:.80}, which is {problem}; send texts, str or bytes")


def _from_json(data: list[Any], datatype: Any, shape: tuple[int, ...]) -> Array:
    if datatype == BYTES:
        return _to_text_array([text.encode() for text in data]).reshape(shape)
    return np.array(data, numpy_dtype(datatype)).reshape(shape)


def _from_bytes(data: memoryview, datatype: Any, shape: tuple[int, ...]) -> Array:
    if datatype == BYTES:
        return _to_text_array(binary.decode_byte_strings(data, math.prod(shape))).reshape(shape)
    return binary.decode_tensor(data, datatype, shape)


def _to_text_array(texts: Sequence[bytes]) -> Array:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array
