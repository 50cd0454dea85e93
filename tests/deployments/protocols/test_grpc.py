"""gRPC's messages: the compiled descriptor, the translation to REST and back, and what is refused."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st

from deployments import errors
from deployments.errors import ClientError
from deployments.protocols.grpc import messages, translate
from deployments.protocols.grpc.messages import ModelInferRequest
from training.bundle.datatypes import DATATYPES, numpy_dtype

CONTENTS_FIELDS = {name: datatype.grpc_field for name, datatype in DATATYPES.items() if datatype.grpc_field}


def make_request(**changes: Any) -> Any:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4]}
    return ModelInferRequest(**({"model_name": "flowers", "inputs": [tensor]} | changes))


def make_request_with_contents(datatype: str, **values: Any) -> Any:
    return make_request(inputs=[{"name": "input", "datatype": datatype, "shape": [1, 2], "contents": values}])


def split_body(body: bytes, header_length: int) -> tuple[dict[str, Any], bytes]:
    return msgspec.json.decode(body[:header_length]), body[header_length:]


def test_the_compiled_descriptor_is_that_of_the_proto_file(tmp_path: Path) -> None:
    folder, out = messages.DESCRIPTOR_FILE.parent, tmp_path / "compiled"

    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={out}", "open_inference.proto"]) == 0

    assert out.read_bytes() == messages.DESCRIPTOR_FILE.read_bytes(), "run `make proto`"


def test_field_numbers_are_those_of_tritons_client() -> None:
    from tritonclient.grpc import service_pb2

    for name in ("ModelInferRequest", "ModelInferResponse", "ModelMetadataResponse", "InferTensorContents"):
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
        ours = messages._message_class(name).DESCRIPTOR
        assert {f.name: (f.number, f.type) for f in ours.fields} == {f.name: (f.number, f.type) for f in theirs.fields}


def test_a_request_becomes_a_rest_request_with_binary_tensors() -> None:
    request = make_request(id="7", outputs=[{"name": "logits"}], raw_input_contents=[b"0123456789abcdef"])
    request.parameters["timeout"].int64_param = 5
    request.parameters["sequence_id"].string_param = "s"
    request.outputs[0].parameters["classification"].int64_param = 2

    header, raw = split_body(*translate.request_to_rest(request))

    assert header == {
        "id": "7",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "logits", "parameters": {"classification": 2}}],
        "parameters": {"timeout": 5, "sequence_id": "s", "binary_data_output": True},
    }
    assert raw == b"0123456789abcdef"


def test_the_bytes_are_aligned_for_every_datatype() -> None:
    for size in range(20):
        _, header_length = translate.request_to_rest(make_request(id="x" * size, raw_input_contents=[b"1234"]))
        assert header_length % 8 == 0


@given(datatype=st.sampled_from(sorted(CONTENTS_FIELDS)), values=st.lists(st.integers(0, 1)))
def test_values_in_contents_survive_the_round_trip(datatype: str, values: list[int]) -> None:
    field = translate.contents_field(datatype)
    assert field is not None
    convert = bool if datatype == "BOOL" else float if datatype.startswith("FP") else int

    _, raw = split_body(
        *translate.request_to_rest(
            make_request_with_contents(datatype, **{field: [convert(value) for value in values]})
        )
    )
    assert raw == np.array(values, dtype=numpy_dtype(datatype)).tobytes()  # type: ignore[arg-type]

    output = {"name": "y", "datatype": datatype, "shape": [len(values)], "parameters": {"binary_data_size": len(raw)}}
    header = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [output]})
    typed = translate.response_from_rest(header + raw, len(header), use_contents=True)
    plain = translate.response_from_rest(header + raw, len(header), use_contents=False)

    assert list(getattr(typed.outputs[0].contents, field)) == values
    assert not typed.raw_output_contents
    assert list(plain.raw_output_contents) == [raw]
    assert not plain.outputs[0].HasField("contents")


@given(st.lists(st.text()))
def test_texts_in_contents_survive_the_round_trip(texts: list[str]) -> None:
    raw_texts = [text.encode() for text in texts]
    _, raw = split_body(*translate.request_to_rest(make_request_with_contents("BYTES", bytes_contents=raw_texts)))
    output = {"name": "y", "datatype": "BYTES", "shape": [len(texts)], "parameters": {"binary_data_size": len(raw)}}
    header = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [output]})

    response = translate.response_from_rest(header + raw, len(header), use_contents=True)

    assert list(response.outputs[0].contents.bytes_contents) == raw_texts


def test_a_datatype_without_contents_is_returned_raw() -> None:
    output = {"name": "y", "datatype": "FP16", "shape": [1], "parameters": {"binary_data_size": 2}}
    header = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [output]})

    assert list(translate.response_from_rest(header + b"ab", len(header), use_contents=True).raw_output_contents) == [
        b"ab"
    ]


def make_request_with_parameter(name: str, **value: Any) -> Any:
    request = make_request(raw_input_contents=[b""])
    request.parameters[name].SetInParent()
    for field, content in value.items():
        setattr(request.parameters[name], field, content)
    return request


@pytest.mark.parametrize(
    ("infer_request", "error", "message"),
    [
        (make_request(raw_input_contents=[b"", b""]), errors.MalformedBody, "2 raw_input_contents for 1 inputs"),
        (
            make_request(
                raw_input_contents=[b""],
                inputs=[{"name": "x", "contents": {"fp32_contents": [1.0]}}],
            ),
            errors.MalformedBody,
            "input 'x' has contents beside raw_input_contents",
        ),
        (make_request_with_contents("FP16"), errors.InvalidType, "FP16; send it in raw_input_contents"),
        (make_request_with_contents("float"), errors.InvalidType, "'input' is float; send it in raw"),
        (
            make_request_with_contents("FP32", fp64_contents=[1.0]),
            errors.MalformedBody,
            "has fp64_contents; send the values of FP32 in fp32_",
        ),
        (
            make_request_with_contents("FP32", fp64_contents=[1.0], fp32_contents=[1.0]),
            errors.MalformedBody,
            "has fp32_contents, fp64_contents",
        ),
        (make_request_with_contents("INT8", int_contents=[128]), errors.InvalidType, "out of the range of INT8"),
        (make_request_with_contents("UINT16", uint_contents=[2**16]), errors.InvalidType, "out of the range of UINT16"),
        (make_request_with_parameter("timeout"), errors.MalformedBody, "'timeout' has no value"),
        (
            make_request_with_parameter("binary_data_output", bool_param=True),
            errors.MalformedBody,
            "belongs to the REST form",
        ),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(
    infer_request: Any, error: type[ClientError], message: str
) -> None:
    with pytest.raises(error, match=message):
        translate.request_to_rest(infer_request)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    try:
        parsed = messages.parse_message(ModelInferRequest, raw)
    except errors.MalformedBody:
        return
    assert isinstance(parsed, ModelInferRequest)


def test_a_message_of_too_many_fields_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(errors.PayloadTooLarge, match="more than 1000 fields"):
        messages.parse_message(ModelInferRequest, b"\x2a\x00" * 16_000_000)


@pytest.mark.parametrize("raw", [b"\xff", b"\xff" * 30, b"\x0a\xff", b"\x0b", b"\x0a\x05ab"])
def test_a_cut_off_message_is_refused(raw: bytes) -> None:
    with pytest.raises(errors.MalformedBody, match="are not a ModelInferRequest"):
        messages.parse_message(ModelInferRequest, raw)
