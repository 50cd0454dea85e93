"""gRPC's messages: compiled as they are written, translated there and back, and refused where they are wrong."""

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
from deployments.protocols.arrays import NUMPY
from deployments.protocols.grpc import messages, translate
from deployments.protocols.grpc.messages import ModelInferRequest


def request(**changes: Any) -> Any:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4]}
    return ModelInferRequest(**({"model_name": "flowers", "inputs": [tensor]} | changes))


def contents(datatype: str, **values: Any) -> Any:
    return request(inputs=[{"name": "input", "datatype": datatype, "shape": [1, 2], "contents": values}])


def split(body: bytes, length: int) -> tuple[dict[str, Any], bytes]:
    return msgspec.json.decode(body[:length]), body[length:]


def test_the_compiled_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    folder, out = messages.COMPILED.parent, tmp_path / "compiled"

    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={out}", "open_inference.proto"]) == 0

    assert out.read_bytes() == messages.COMPILED.read_bytes(), "run `make proto`"


def test_field_numbers_are_those_that_tritons_client_has() -> None:
    from tritonclient.grpc import service_pb2

    for name in ("ModelInferRequest", "ModelInferResponse", "ModelMetadataResponse", "InferTensorContents"):
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
        ours = messages._message_class(name).DESCRIPTOR
        assert {f.name: (f.number, f.type) for f in ours.fields} == {f.name: (f.number, f.type) for f in theirs.fields}


def test_a_request_becomes_the_binary_form() -> None:
    sent = request(id="7", outputs=[{"name": "logits"}], raw_input_contents=[b"0123456789abcdef"])
    sent.parameters["timeout"].int64_param = 5
    sent.parameters["sequence_id"].string_param = "s"
    sent.outputs[0].parameters["classification"].int64_param = 2

    said, raw = split(*translate.to_rest(sent))

    assert said == {
        "id": "7",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "logits", "parameters": {"classification": 2}}],
        "parameters": {"timeout": 5, "sequence_id": "s", "binary_data_output": True},
    }
    assert raw == b"0123456789abcdef"


def test_the_bytes_begin_where_any_datatype_may() -> None:
    for size in range(20):
        _, length = translate.to_rest(request(id="x" * size, raw_input_contents=[b"1234"]))
        assert length % 8 == 0


@given(datatype=st.sampled_from(sorted(set(translate.FIELDS) - {"BYTES"})), values=st.lists(st.integers(0, 1)))
def test_values_in_typed_fields_come_back_in_them(datatype: str, values: list[int]) -> None:
    field = translate.FIELDS[datatype]
    kind = bool if datatype == "BOOL" else float if datatype.startswith("FP") else int

    _, raw = split(*translate.to_rest(contents(datatype, **{field: [kind(value) for value in values]})))
    assert raw == np.array(values, dtype=NUMPY[datatype]).tobytes()  # type: ignore[index]

    output = {"name": "y", "datatype": datatype, "shape": [len(values)], "parameters": {"binary_data_size": len(raw)}}
    said = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [output]})
    typed = translate.from_rest(said + raw, len(said), as_contents=True)
    plain = translate.from_rest(said + raw, len(said), as_contents=False)

    assert list(getattr(typed.outputs[0].contents, field)) == values
    assert not typed.raw_output_contents
    assert list(plain.raw_output_contents) == [raw]
    assert not plain.outputs[0].HasField("contents")


@given(st.lists(st.text()))
def test_texts_come_back_in_their_field(texts: list[str]) -> None:
    raw_texts = [text.encode() for text in texts]
    _, raw = split(*translate.to_rest(contents("BYTES", bytes_contents=raw_texts)))
    output = {"name": "y", "datatype": "BYTES", "shape": [len(texts)], "parameters": {"binary_data_size": len(raw)}}
    said = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [output]})

    answer = translate.from_rest(said + raw, len(said), as_contents=True)

    assert list(answer.outputs[0].contents.bytes_contents) == raw_texts


def test_halves_are_raw_even_for_who_sent_typed_values() -> None:
    output = {"name": "y", "datatype": "FP16", "shape": [1], "parameters": {"binary_data_size": 2}}
    said = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [output]})

    assert list(translate.from_rest(said + b"ab", len(said), as_contents=True).raw_output_contents) == [b"ab"]


def with_parameter(name: str, **value: Any) -> Any:
    made = request(raw_input_contents=[b""])
    made.parameters[name].SetInParent()
    for field, content in value.items():
        setattr(made.parameters[name], field, content)
    return made


@pytest.mark.parametrize(
    ("sent", "error", "said"),
    [
        (request(raw_input_contents=[b"", b""]), errors.MalformedBody, "2 raw_input_contents for 1 inputs"),
        (
            request(
                raw_input_contents=[b""],
                inputs=[{"name": "x", "contents": {"fp32_contents": [1.0]}}],
            ),
            errors.MalformedBody,
            "input 'x' has contents beside raw_input_contents",
        ),
        (contents("FP16"), errors.InvalidType, "FP16; send it in raw_input_contents"),
        (contents("float"), errors.InvalidType, "'input' is float; send it in raw"),
        (
            contents("FP32", fp64_contents=[1.0]),
            errors.MalformedBody,
            "has fp64_contents; the values of FP32 are fp32_",
        ),
        (
            contents("FP32", fp64_contents=[1.0], fp32_contents=[1.0]),
            errors.MalformedBody,
            "has fp32_contents, fp64_contents",
        ),
        (contents("INT8", int_contents=[128]), errors.InvalidType, "out of the range of INT8"),
        (contents("UINT16", uint_contents=[2**16]), errors.InvalidType, "out of the range of UINT16"),
        (with_parameter("timeout"), errors.MalformedBody, "'timeout' has no value"),
        (with_parameter("binary_data_output", bool_param=True), errors.MalformedBody, "word of the REST form"),
    ],
)
def test_a_wrong_message_is_told_what_is_wrong(sent: Any, error: type[ClientError], said: str) -> None:
    with pytest.raises(error, match=said):
        translate.to_rest(sent)


@given(st.binary(max_size=300))
def test_bytes_are_a_message_or_refused(raw: bytes) -> None:
    try:
        parsed = messages.parse_message(ModelInferRequest, raw)
    except errors.MalformedBody:
        return
    assert isinstance(parsed, ModelInferRequest)


def test_a_message_of_very_many_parts_is_refused_before_it_is_read() -> None:
    with pytest.raises(errors.PayloadTooLarge, match="more than 1000 parts"):
        messages.parse_message(ModelInferRequest, b"\x2a\x00" * 16_000_000)


@pytest.mark.parametrize("raw", [b"\xff", b"\xff" * 30, b"\x0a\xff", b"\x0b", b"\x0a\x05ab"])
def test_a_cut_off_message_is_refused(raw: bytes) -> None:
    with pytest.raises(errors.MalformedBody, match="are no ModelInferRequest"):
        messages.parse_message(ModelInferRequest, raw)
