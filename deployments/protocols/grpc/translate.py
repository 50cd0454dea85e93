"""Translates gRPC messages to the REST form with binary tensors and back, so that one codec decodes and checks both.

Request walk: deployments.control.grpc_gateway
    -> [translate.py] -> deployments.server.handle_client -> [translate.py] -> deployments.control.grpc_gateway
Knows the messages; nothing of any model.
"""

import math
from typing import Any

import msgspec
import numpy as np

from deployments.errors import InvalidType, MalformedBody
from deployments.protocols.grpc.messages import ModelInferResponse, ModelMetadataResponse
from deployments.protocols.oip import binary
from training.bundle.datatypes import BYTES, DATATYPES, numpy_dtype

# Parameters of the REST form only: they describe bytes that gRPC carries in raw_input_contents.
_REST_PARAMETERS = {"binary_data_size", "binary_data", "binary_data_output"}
_BYTES_FIELD = "bytes_contents"


def request_to_rest(request: Any) -> tuple[bytes, int]:
    """Translate a ModelInferRequest to a REST body of JSON and bytes.

    Returns:
        The body, and the length of its JSON part.

    Raises:
        ClientError: REST has no such request.
    """
    parts = _raw_inputs(request)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": _to_json_parameters(tensor.parameters) | {"binary_data_size": len(part)},
        }
        for tensor, part in zip(request.inputs, parts, strict=True)
    ]
    header: dict[str, Any] = {"inputs": inputs}
    header["parameters"] = _to_json_parameters(request.parameters) | {"binary_data_output": True}
    if request.id:
        header["id"] = request.id
    if request.outputs:
        header["outputs"] = [
            {"name": output.name, "parameters": _to_json_parameters(output.parameters)} for output in request.outputs
        ]
    return binary.join_parts(msgspec.json.encode(header), parts)


def response_from_rest(body: bytes, header_length: int, use_contents: bool) -> Any:
    """Translate a REST response to a ModelInferResponse.

    Args:
        body: JSON and bytes.
        header_length: of the JSON part.
        use_contents: whether values go into the typed fields, as the request's came, where their datatypes have one.
    """
    header = msgspec.json.decode(memoryview(body)[:header_length])
    response = ModelInferResponse(
        model_name=header["model_name"], model_version=header["model_version"], id=header.get("id", "")
    )
    use_contents = use_contents and all(contents_field(output["datatype"]) for output in header["outputs"])
    start = header_length
    for output in header["outputs"]:
        tensor = response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        end = start + output["parameters"]["binary_data_size"]
        data, start = body[start:end], end
        if use_contents:
            values = _to_contents(data, tensor.datatype, output["shape"])
            getattr(tensor.contents, str(contents_field(tensor.datatype))).extend(values)
        else:
            response.raw_output_contents.append(data)
    return response


def metadata_from_rest(metadata: bytes) -> Any:
    """Translate a model's REST metadata to a ModelMetadataResponse."""
    return ModelMetadataResponse(**msgspec.json.decode(metadata))


def contents_field(datatype: str) -> str | None:
    """Return the field of InferTensorContents for a datatype; None where it has none."""
    if datatype == BYTES:
        return _BYTES_FIELD
    entry = DATATYPES.get(datatype)  # type: ignore[call-overload]
    return entry.grpc_field if entry else None


def _raw_inputs(request: Any) -> list[bytes]:
    """Return each input's values as bytes."""
    raw, inputs = request.raw_input_contents, request.inputs
    if not raw:
        return [_from_contents(tensor) for tensor in inputs]
    with_contents = [tensor.name for tensor in inputs if tensor.HasField("contents")]
    if with_contents:
        raise MalformedBody(f"input {with_contents[0]!r} has contents beside raw_input_contents; send one of them")
    if len(raw) != len(inputs):
        raise MalformedBody(f"{len(raw)} raw_input_contents for {len(inputs)} inputs; send one for each")
    return list(raw)


def _from_contents(tensor: Any) -> bytes:
    """Return the values of an input's typed field as bytes."""
    field = contents_field(tensor.datatype)
    if field is None:
        raise InvalidType(
            f"input {tensor.name!r} is {tensor.datatype or 'of no datatype'}; send it in raw_input_contents"
        )
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([], [field]):
        raise MalformedBody(
            f"input {tensor.name!r} has {', '.join(filled)}; send the values of {tensor.datatype} in {field}"
        )
    values = getattr(tensor.contents, field)
    if tensor.datatype == BYTES:
        return binary.encode_texts(list(values))
    try:
        # From a list: numpy wraps values out of range where it gets protobuf's own sequence.
        return np.array(list(values), numpy_dtype(tensor.datatype)).tobytes()
    except OverflowError:
        raise InvalidType(f"input {tensor.name!r} has a value out of the range of {tensor.datatype}") from None


def _to_contents(data: bytes, datatype: Any, shape: list[int]) -> list[Any]:
    if datatype == BYTES:
        return binary.decode_byte_strings(data, math.prod(shape))
    values: list[Any] = np.frombuffer(data, numpy_dtype(datatype)).tolist()
    return values


def _to_json_parameters(parameters: Any) -> dict[str, Any]:
    """Translate parameters to JSON; the codec checks their meaning."""
    json_parameters = {}
    for key, value in parameters.items():
        field = value.WhichOneof("parameter_choice")
        if field is None or key in _REST_PARAMETERS:
            problem = "has no value" if field is None else "belongs to the REST form"
            raise MalformedBody(f"parameter {key!r} {problem}; leave it out")
        json_parameters[key] = getattr(value, field)
    return json_parameters
