import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments import errors
from deployments.errors import ClientError
from deployments.protocols.oip.codec import OipCodec, encode_metadata
from training.bundle.load import verify_bundle
from training.schema import NumberOutput


@pytest.fixture
def codec(table_bundle: Path) -> OipCodec:
    return OipCodec(verify_bundle(table_bundle), "3", max_rows=100)


@pytest.fixture
def pixels(image_bundle: Path) -> OipCodec:
    return OipCodec(verify_bundle(image_bundle), "1", max_rows=100)


def request(more: dict[str, Any] | None = None, **changes: Any) -> bytes:
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [1, 2, 3, 4, 5.5, 6, 7, 8]}
    return json.dumps({"inputs": [tensor | changes]} | (more or {})).encode()


def test_flat_and_nested_data_are_the_same_tensor(codec: OipCodec) -> None:
    flat = codec.decode(request()).rows
    nested = codec.decode(request(data=[[1, 2, 3, 4], [5.5, 6, 7, 8]])).rows

    assert isinstance(flat, np.ndarray)
    assert flat.dtype == np.float32
    assert np.array_equal(flat, [[1, 2, 3, 4], [5.5, 6, 7, 8]])
    assert np.array_equal(flat, nested)


def test_a_body_of_json_alone_may_say_so(codec: OipCodec) -> None:
    raw = request()

    assert np.array_equal(codec.decode(raw, len(raw)).rows, codec.decode(raw).rows)


def test_the_id_comes_back_with_names_shape_and_type(codec: OipCodec) -> None:
    asked = codec.decode(json.dumps(json.loads(request()) | {"id": "abc"}).encode())

    answer, length = codec.encode((np.array([[1.5, 2.0, 3.0]], np.float32),), asked)

    assert length is None
    assert json.loads(answer) == {
        "model_name": "flowers",
        "model_version": "3",
        "id": "abc",
        "outputs": [{"name": "logits", "shape": [1, 3], "datatype": "FP32", "data": [1.5, 2.0, 3.0]}],
    }


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (b"", errors.MalformedBody, "not an inference request"),
        (b"[]", errors.MalformedBody, "not an inference request"),
        (b'{"inputs": [{"name": "input"}]}', errors.MalformedBody, "shape"),
        (
            b'{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32"}]}',
            errors.MalformedBody,
            "neither data nor binary_data_size",
        ),
        (request(extra=1), errors.MalformedBody, "extra"),
        (b"[" * 100_000, errors.MalformedBody, "not an inference request"),
        (request(name="x"), errors.UnknownTensor, "'x'; this model takes one, 'input'"),
        (b'{"inputs": []}', errors.UnknownTensor, "none; this model takes one"),
        (request({"outputs": [{"name": "y"}]}), errors.UnknownTensor, "no output 'y'; this model gives 'logits'"),
        (request({"outputs": [{"name": "logits"}] * 2}), errors.UnknownTensor, "asked for twice"),
        (request({"parameters": {"gain": 2}}), errors.MalformedBody, "`gain`.*known here: binary_data_output, timeout"),
        (request({"parameters": {"timeout": -1}}), errors.MalformedBody, "timeout"),
        (request({"parameters": {"timeout": 10**400}}), errors.MalformedBody, "timeout"),
        (request({"parameters": {"priority": "high"}}), errors.MalformedBody, "priority"),
        (request(parameters={"shared_memory_region": "r"}), errors.MalformedBody, "known here: binary_data_size"),
        (
            request({"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]}),
            errors.MalformedBody,
            "known here: binary_data, classification",
        ),
        (
            request({"outputs": [{"name": "logits", "parameters": {"classification": 0}}]}),
            errors.MalformedBody,
            "classification",
        ),
        (request(parameters={"binary_data_size": 32}), errors.MalformedBody, "both data and binary_data_size"),
        (request(datatype="FP64"), errors.InvalidType, "is FP64; this model takes FP32"),
        (request(shape=[2, 5]), errors.InvalidShape, "this model takes \\[-1, 4\\]"),
        (request(shape=[8]), errors.InvalidShape, "this model takes"),
        (request(shape=[]), errors.InvalidShape, "this model takes"),
        (request(shape=[3, 4]), errors.InvalidShape, "8 values"),
        (request(shape=[0, 4], data=[]), errors.EmptyRequest, "0 rows"),
        (request(shape=[-1, 4]), errors.EmptyRequest, "-1 rows"),
        (request(shape=[101, 4]), errors.PayloadTooLarge, "101 rows"),
        (request(data=[[1, 2, 3, 4], [5, 6]]), errors.InvalidShape, "unequal length"),
        (request(data=[[1, 2], [3, 4], [5, 6], [7, 8]]), errors.InvalidShape, "nested as \\[4, 2\\]"),
        (request(data=["1"] * 8), errors.InvalidType, "FP32"),
        (request(data=[True] * 8), errors.InvalidType, "FP32"),
        (request(data={"a": 1}), errors.InvalidType, "FP32"),
        (request(data=[1e39] * 8), errors.NotFinite, "not finite"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    codec: OipCodec, raw: bytes, error: type[ClientError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        codec.decode(raw)

    assert 400 <= caught.value.status < 500


@pytest.mark.parametrize("data", [[256] * 64, [-1] * 64, [0.5] * 64])
def test_integers_out_of_range_and_fractions_are_no_pixels(pixels: OipCodec, data: list[float]) -> None:
    with pytest.raises(errors.InvalidType):
        pixels.decode(request(shape=[1, 1, 8, 8], datatype="UINT8", data=data))


SPECIFIC = {"priority": 2, "sequence_id": "s", "sequence_start": True, "sequence_end": False, "timeout": 1_500_000}


def test_what_triton_clients_send_beside_is_taken_and_the_timeout_is_kept(codec: OipCodec) -> None:
    asked = codec.decode(request({"parameters": SPECIFIC}))

    assert asked.timeout_s == 1.5
    assert codec.decode(request({"parameters": {"timeout": 0}})).timeout_s is None


def test_classes_come_as_triton_says_them(codec: OipCodec) -> None:
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    asked = codec.decode(request({"outputs": outputs}))

    answer, _ = codec.encode((np.array([[1.5, 2.0, -3.0], [0.25, 0.0, 9.0]], np.float32),), asked)

    assert json.loads(answer)["outputs"] == [
        {
            "name": "logits",
            "datatype": "BYTES",
            "shape": [2, 2],
            "data": ["2.000000:1:b", "1.500000:0:a", "9.000000:2:c", "0.250000:0:a"],
        }
    ]


def test_more_classes_than_there_are_give_them_all(codec: OipCodec) -> None:
    asked = codec.decode(request({"outputs": [{"name": "logits", "parameters": {"classification": 99}}]}))

    answer, _ = codec.encode((np.zeros((2, 3), np.float32),), asked)

    assert json.loads(answer)["outputs"][0]["shape"] == [2, 3]


def test_a_model_without_classes_refuses_to_name_some(table_bundle: Path) -> None:
    number = verify_bundle(table_bundle).model_copy(update={"answer": NumberOutput(name="price")})

    with pytest.raises(errors.UnknownParameter, match="no classes"):
        OipCodec(number, "1", 10).decode(
            request({"outputs": [{"name": "logits", "parameters": {"classification": 1}}]})
        )


def test_metadata_is_the_protocols(table_bundle: Path) -> None:
    assert json.loads(encode_metadata(verify_bundle(table_bundle), "3")) == {
        "name": "flowers",
        "versions": ["3"],
        "platform": "pytorch_export",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
