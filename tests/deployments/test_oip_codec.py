import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments import errors
from deployments.codec.oip import Codec, metadata
from deployments.errors import ClientError
from training import bundle


@pytest.fixture
def codec(table_bundle: Path) -> Codec:
    return Codec(bundle.verify(table_bundle), "3", max_rows=100)


@pytest.fixture
def pixels(image_bundle: Path) -> Codec:
    return Codec(bundle.verify(image_bundle), "1", max_rows=100)


def request(**changes: Any) -> bytes:
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [1, 2, 3, 4, 5.5, 6, 7, 8]}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def test_flat_and_nested_data_are_the_same_tensor(codec: Codec) -> None:
    flat, _, _ = codec.decode(request())
    nested, _, _ = codec.decode(request(data=[[1, 2, 3, 4], [5.5, 6, 7, 8]]))

    assert flat.dtype == np.float32
    assert np.array_equal(flat, [[1, 2, 3, 4], [5.5, 6, 7, 8]])
    assert np.array_equal(flat, nested)


def test_the_id_comes_back_with_names_shape_and_type(codec: Codec) -> None:
    _, request_id, wanted = codec.decode(json.dumps(json.loads(request()) | {"id": "abc"}).encode())

    answer = json.loads(codec.encode((np.array([[1.5, 2.0, 3.0]], np.float32),), request_id, wanted))

    assert answer == {
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
        (request(extra=1), errors.MalformedBody, "extra"),
        (b"[" * 100_000, errors.MalformedBody, "not an inference request"),
        (request(name="x"), errors.UnknownTensor, "'x'; this model takes one, 'input'"),
        (b'{"inputs": []}', errors.UnknownTensor, "none; this model takes one"),
        (
            json.dumps(json.loads(request()) | {"outputs": [{"name": "y"}]}).encode(),
            errors.UnknownTensor,
            "no output 'y'; this model gives 'logits'",
        ),
        (request(datatype="FP64"), errors.WrongType, "is FP64; this model takes FP32"),
        (request(shape=[2, 5]), errors.WrongShape, "this model takes \\[-1, 4\\]"),
        (request(shape=[8]), errors.WrongShape, "this model takes"),
        (request(shape=[]), errors.WrongShape, "this model takes"),
        (request(shape=[3, 4]), errors.WrongShape, "8 values"),
        (request(shape=[0, 4], data=[]), errors.Empty, "0 rows"),
        (request(shape=[-1, 4]), errors.Empty, "-1 rows"),
        (request(shape=[101, 4]), errors.TooLarge, "101 rows"),
        (request(data=[[1, 2, 3, 4], [5, 6]]), errors.WrongShape, "unequal length"),
        (request(data=[[1, 2], [3, 4], [5, 6], [7, 8]]), errors.WrongShape, "nested as \\[4, 2\\]"),
        (request(data=["1"] * 8), errors.WrongType, "FP32"),
        (request(data=[True] * 8), errors.WrongType, "FP32"),
        (request(data={"a": 1}), errors.WrongType, "FP32"),
        (request(data=[1e39] * 8), errors.NotFinite, "not finite"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(codec: Codec, raw: bytes, error: type[ClientError], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        codec.decode(raw)

    assert 400 <= caught.value.status < 500


@pytest.mark.parametrize("data", [[256] * 64, [-1] * 64, [0.5] * 64])
def test_integers_out_of_range_and_fractions_are_no_pixels(pixels: Codec, data: list[float]) -> None:
    with pytest.raises(errors.WrongType):
        pixels.decode(request(shape=[1, 1, 8, 8], datatype="UINT8", data=data))


def test_metadata_is_the_protocols(table_bundle: Path) -> None:
    assert json.loads(metadata(bundle.verify(table_bundle), "3")) == {
        "name": "flowers",
        "versions": ["3"],
        "platform": "pytorch_export",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
