import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments import errors
from deployments.errors import ClientError
from deployments.protocols.oip.codec import OipCodec, encode_metadata
from deployments.settings import Limits
from training.bundle.verify import verify_bundle
from training.schema import NumberOutput


@pytest.fixture
def codec(table_bundle: Path) -> OipCodec:
    return OipCodec(verify_bundle(table_bundle), "3", Limits(max_rows=100))


@pytest.fixture
def pixels(image_bundle: Path) -> OipCodec:
    return OipCodec(verify_bundle(image_bundle), "1", Limits(max_rows=100))


def encode_request(fields: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """A valid request, with other fields besides its inputs, and changes of its tensor."""
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [1, 2, 3, 4, 5.5, 6, 7, 8]}
    return json.dumps({"inputs": [tensor | changes]} | (fields or {})).encode()


def test_flat_and_nested_data_are_the_same_tensor(codec: OipCodec) -> None:
    flat = codec.decode_request(encode_request()).rows
    nested = codec.decode_request(encode_request(data=[[1, 2, 3, 4], [5.5, 6, 7, 8]])).rows

    assert isinstance(flat, np.ndarray)
    assert flat.dtype == np.float32
    assert np.array_equal(flat, [[1, 2, 3, 4], [5.5, 6, 7, 8]])
    assert np.array_equal(flat, nested)


def test_a_header_length_may_be_that_of_the_entire_body(codec: OipCodec) -> None:
    body = encode_request()

    assert np.array_equal(codec.decode_request(body, len(body)).rows, codec.decode_request(body).rows)


def test_a_response_has_the_id_names_shape_and_datatype(codec: OipCodec) -> None:
    request = codec.decode_request(json.dumps(json.loads(encode_request()) | {"id": "abc"}).encode())

    response, header_length = codec.encode_response((np.array([[1.5, 2.0, 3.0]], np.float32),), request)

    assert header_length is None
    assert json.loads(response) == {
        "model_name": "flowers",
        "model_version": "3",
        "id": "abc",
        "outputs": [{"name": "logits", "shape": [1, 3], "datatype": "FP32", "data": [1.5, 2.0, 3.0]}],
    }


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", errors.MalformedBody, "not an inference request"),
        (b"[]", errors.MalformedBody, "not an inference request"),
        (b'{"inputs": [{"name": "input"}]}', errors.MalformedBody, "shape"),
        (
            b'{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32"}]}',
            errors.MalformedBody,
            "neither data nor binary_data_size",
        ),
        (encode_request(extra=1), errors.MalformedBody, "extra"),
        (b"[" * 100_000, errors.MalformedBody, "not an inference request"),
        (encode_request(name="x"), errors.UnknownTensor, "'x'; this model takes one, 'input'"),
        (b'{"inputs": []}', errors.UnknownTensor, "none; this model takes one"),
        (encode_request({"outputs": [{"name": "y"}]}), errors.UnknownTensor, "no output 'y'; this model has 'logits'"),
        (encode_request({"outputs": [{"name": "logits"}] * 2}), errors.UnknownTensor, "requested twice"),
        (
            encode_request({"parameters": {"gain": 2}}),
            errors.MalformedBody,
            "`gain`.*known: binary_data_output, timeout",
        ),
        (encode_request({"parameters": {"timeout": -1}}), errors.MalformedBody, "timeout"),
        (encode_request({"parameters": {"timeout": 10**400}}), errors.MalformedBody, "timeout"),
        (encode_request({"parameters": {"priority": "high"}}), errors.MalformedBody, "priority"),
        (encode_request(parameters={"shared_memory_region": "r"}), errors.MalformedBody, "known: binary_data_size"),
        (
            encode_request({"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]}),
            errors.MalformedBody,
            "known: binary_data, classification",
        ),
        (
            encode_request({"outputs": [{"name": "logits", "parameters": {"classification": 0}}]}),
            errors.MalformedBody,
            "classification",
        ),
        (encode_request(parameters={"binary_data_size": 32}), errors.MalformedBody, "both data and binary_data_size"),
        (encode_request(datatype="FP64"), errors.InvalidType, "is FP64; this model takes FP32"),
        (encode_request(shape=[2, 5]), errors.InvalidShape, "this model takes \\[-1, 4\\]"),
        (encode_request(shape=[8]), errors.InvalidShape, "this model takes"),
        (encode_request(shape=[]), errors.InvalidShape, "this model takes"),
        (encode_request(shape=[3, 4]), errors.InvalidShape, "8 values"),
        (encode_request(shape=[0, 4], data=[]), errors.EmptyRequest, "0 rows"),
        (encode_request(shape=[-1, 4]), errors.EmptyRequest, "-1 rows"),
        (encode_request(shape=[101, 4]), errors.PayloadTooLarge, "101 rows"),
        (encode_request(data=[[1, 2, 3, 4], [5, 6]]), errors.InvalidShape, "unequal length"),
        (encode_request(data=[[1, 2], [3, 4], [5, 6], [7, 8]]), errors.InvalidShape, "nested as \\[4, 2\\]"),
        (encode_request(data=["1"] * 8), errors.InvalidType, "FP32"),
        (encode_request(data=[True] * 8), errors.InvalidType, "FP32"),
        (encode_request(data={"a": 1}), errors.InvalidType, "FP32"),
        (encode_request(data=[1e39] * 8), errors.NotFinite, "not finite"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(
    codec: OipCodec, body: bytes, error: type[ClientError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        codec.decode_request(body)

    assert 400 <= caught.value.status < 500


@pytest.mark.parametrize("data", [[256] * 64, [-1] * 64, [0.5] * 64])
def test_pixels_are_integers_in_range(pixels: OipCodec, data: list[float]) -> None:
    with pytest.raises(errors.InvalidType):
        pixels.decode_request(encode_request(shape=[1, 1, 8, 8], datatype="UINT8", data=data))


TRITON_PARAMETERS = {
    "priority": 2,
    "sequence_id": "s",
    "sequence_start": True,
    "sequence_end": False,
    "timeout": 1_500_000,
}


def test_the_parameters_of_triton_clients_are_accepted_and_the_timeout_is_kept(codec: OipCodec) -> None:
    request = codec.decode_request(encode_request({"parameters": TRITON_PARAMETERS}))

    assert request.timeout_s == 1.5
    assert codec.decode_request(encode_request({"parameters": {"timeout": 0}})).timeout_s is None


def test_classes_have_tritons_form(codec: OipCodec) -> None:
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    request = codec.decode_request(encode_request({"outputs": outputs}))

    response, _ = codec.encode_response((np.array([[1.5, 2.0, -3.0], [0.25, 0.0, 9.0]], np.float32),), request)

    assert json.loads(response)["outputs"] == [
        {
            "name": "logits",
            "datatype": "BYTES",
            "shape": [2, 2],
            "data": ["2.000000:1:b", "1.500000:0:a", "9.000000:2:c", "0.250000:0:a"],
        }
    ]


def test_a_request_for_too_many_classes_returns_all(codec: OipCodec) -> None:
    request = codec.decode_request(
        encode_request({"outputs": [{"name": "logits", "parameters": {"classification": 99}}]})
    )

    response, _ = codec.encode_response((np.zeros((2, 3), np.float32),), request)

    assert json.loads(response)["outputs"][0]["shape"] == [2, 3]


def test_a_model_without_classes_refuses_classification(table_bundle: Path) -> None:
    manifest = verify_bundle(table_bundle).model_copy(update={"output_schema": NumberOutput(name="price")})

    with pytest.raises(errors.UnknownParameter, match="no classes"):
        OipCodec(manifest, "1", Limits(max_rows=10)).decode_request(
            encode_request({"outputs": [{"name": "logits", "parameters": {"classification": 1}}]})
        )


def test_metadata_has_the_protocols_form(table_bundle: Path) -> None:
    assert json.loads(encode_metadata(verify_bundle(table_bundle), "3")) == {
        "name": "flowers",
        "versions": ["3"],
        "platform": "pytorch_export",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
