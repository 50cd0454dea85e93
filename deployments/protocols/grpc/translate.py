"""gRPC's messages to the REST protocol's binary form and back, so that one codec reads and judges both.

Request walk: gateway.py -> [translate.py] -> replica.py -> codec.oip -> ... -> [translate.py] -> gateway.py
Knows the messages; nothing of any model.
"""

import math
from typing import Any

import msgspec
import numpy as np

from deployments.errors import InvalidType, MalformedBody
from deployments.protocols.arrays import NUMPY
from deployments.protocols.grpc.messages import ModelInferResponse, ModelMetadataResponse
from deployments.protocols.oip import binary

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where a datatype's values are, if they are not raw."""

# Words of the REST form alone: here they would speak of bytes that gRPC carries elsewhere.
_RESTS_OWN = {"binary_data_size", "binary_data", "binary_data_output"}
# The bytes then begin where any datatype may.
_ALIGNMENT = 8


def to_rest(request: Any) -> tuple[bytes, int]:
    """Write a ModelInferRequest as a REST body of JSON and raw bytes.

    Returns:
        The body, and the length of its JSON part.

    Raises:
        ClientError: it is no request that REST could say.
    """
    parts = _raw_inputs(request)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": _read_parameters(tensor.parameters) | {"binary_data_size": len(part)},
        }
        for tensor, part in zip(request.inputs, parts, strict=True)
    ]
    said: dict[str, Any] = {"inputs": inputs}
    said["parameters"] = _read_parameters(request.parameters) | {"binary_data_output": True}
    if request.id:
        said["id"] = request.id
    if request.outputs:
        said["outputs"] = [{"name": o.name, "parameters": _read_parameters(o.parameters)} for o in request.outputs]
    header = msgspec.json.encode(said)
    header += b" " * (-len(header) % _ALIGNMENT)
    return b"".join((header, *parts)), len(header)


def from_rest(body: bytes, header_length: int, as_contents: bool) -> Any:
    """Read a REST answer into a ModelInferResponse.

    Args:
        body: JSON and raw bytes.
        header_length: of the JSON part.
        as_contents: whether values go into the typed fields, as the request's came, where their datatypes have one.
    """
    said, at = msgspec.json.decode(memoryview(body)[:header_length]), header_length
    answer = ModelInferResponse(
        model_name=said["model_name"], model_version=said["model_version"], id=said.get("id", "")
    )
    as_contents = as_contents and all(output["datatype"] in FIELDS for output in said["outputs"])
    for output in said["outputs"]:
        tensor = answer.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        raw = body[at : at + output["parameters"]["binary_data_size"]]
        at += len(raw)
        if as_contents:
            getattr(tensor.contents, FIELDS[tensor.datatype]).extend(
                _unpack_contents(raw, tensor.datatype, output["shape"])
            )
        else:
            answer.raw_output_contents.append(raw)
    return answer


def to_metadata_response(said: bytes) -> Any:
    """Read a model's metadata, as REST says it, into a ModelMetadataResponse."""
    return ModelMetadataResponse(**msgspec.json.decode(said))


def _raw_inputs(request: Any) -> list[bytes]:
    """Each input's values as raw bytes."""
    raw, inputs = request.raw_input_contents, request.inputs
    typed = [tensor.name for tensor in inputs if tensor.HasField("contents")]
    if not raw:
        return [_pack_contents(tensor) for tensor in inputs]
    if typed:
        raise MalformedBody(f"input {typed[0]!r} has contents beside raw_input_contents; send one of them")
    if len(raw) != len(inputs):
        raise MalformedBody(f"{len(raw)} raw_input_contents for {len(inputs)} inputs; send one for each")
    return list(raw)


def _pack_contents(tensor: Any) -> bytes:
    """The values of an input's one filled field as raw bytes."""
    field = FIELDS.get(tensor.datatype)
    if field is None:
        raise InvalidType(
            f"input {tensor.name!r} is {tensor.datatype or 'of no datatype'}; send it in raw_input_contents"
        )
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([], [field]):
        raise MalformedBody(
            f"input {tensor.name!r} has {', '.join(filled)}; the values of {tensor.datatype} are {field}"
        )
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return binary.write_texts(list(values))
    try:
        # Of a list: numpy wraps what is out of range where it is given protobuf's own sequence.
        return np.array(list(values), dtype=NUMPY[tensor.datatype]).tobytes()
    except OverflowError:
        raise InvalidType(f"input {tensor.name!r} has a value out of the range of {tensor.datatype}") from None


def _unpack_contents(raw: bytes, datatype: Any, shape: list[int]) -> list[Any]:
    if datatype == "BYTES":
        return [text.encode() for text in binary.read_texts(raw, 0, math.prod(shape))]
    values: list[Any] = np.frombuffer(raw, NUMPY[datatype]).tolist()
    return values


def _read_parameters(sent: Any) -> dict[str, Any]:
    """Parameters as JSON has them; the codec judges what they mean."""
    parameters = {}
    for key, value in sent.items():
        chosen = value.WhichOneof("parameter_choice")
        if chosen is None or key in _RESTS_OWN:
            why = "has no value" if chosen is None else "is a word of the REST form"
            raise MalformedBody(f"parameter {key!r} {why}; leave it out")
        parameters[key] = getattr(value, chosen)
    return parameters
