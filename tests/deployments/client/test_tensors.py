"""The client's request and response bodies: arrays to the protocol's bytes and back."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from deployments.client.tensors import cast_to, decode_response, encode_request, to_array
from deployments.errors import InvalidShape
from deployments.protocols.arrays import Array
from training.bundle.datatypes import DATATYPES, Datatype, numpy_dtype


def round_trip(array: Array, datatype: Datatype | None = None) -> tuple[dict[str, Any], Array]:
    """Encode a request and decode its tensor as if it were a response's output; returns the tensor's JSON, and it."""
    body, headers = encode_request({"x": array}, None, True, {"x": datatype} if datatype else None)
    header_length = int(dict(headers)[b"inference-header-content-length"])
    (tensor,) = json.loads(body[:header_length])["inputs"]
    response_header = json.dumps({"outputs": [tensor]}).encode()
    response = response_header + body[header_length:]
    assert tensor["parameters"]["binary_data_size"] == len(body) - header_length
    return tensor, decode_response(response, len(response_header))["x"]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_survives_the_round_trip_through_bytes(datatype: Datatype) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]], numpy_dtype(datatype).newbyteorder(">"))

    tensor, decoded = round_trip(array, datatype)

    assert tensor["datatype"] == datatype
    assert tensor["parameters"]["binary_data_size"] == array.size * DATATYPES[datatype].itemsize
    assert np.array_equal(decoded, array)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BF16"])
def test_an_array_shows_its_datatype(datatype: Datatype) -> None:
    tensor, decoded = round_trip(np.array([[0, 1]], numpy_dtype(datatype).newbyteorder(">")))

    assert tensor["datatype"] == datatype
    assert np.array_equal(decoded, [[0, 1]])


def test_bfloat16_is_rounded_from_float32() -> None:
    _, decoded = round_trip(np.array([1.0, 1.0 + 2**-9, 1.0 + 2**-8, np.inf, -3.14], np.float32), "BF16")

    assert decoded.dtype == np.float32
    assert decoded.tolist() == [1.0, 1.0, 1.0 + 2**-7, np.inf, -3.140625]


def test_texts_are_bytes_behind_their_length() -> None:
    body, headers = encode_request({"x": np.array(["很", "a"])}, None, use_binary=True)
    header_length = int(dict(headers)[b"inference-header-content-length"])

    assert body[header_length:] == struct.pack("<I", 3) + "很".encode() + struct.pack("<I", 1) + b"a"
    assert round_trip(np.array(["很", "a"]))[1].tolist() == ["很".encode(), b"a"]


def test_a_response_of_another_size_than_its_shape_is_refused() -> None:
    tensor = {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 4}}
    header = json.dumps({"outputs": [tensor]}).encode()

    with pytest.raises(InvalidShape, match="4 bytes of FP32"):
        decode_response(header + b"1234", len(header))


def test_a_cast_loses_no_more_than_digits() -> None:
    assert cast_to(np.ones(1, np.float64), "FP32").dtype == np.float32
    assert cast_to(np.ones(1, np.int64), "FP32").dtype == np.float32
    assert cast_to(np.ones(1, np.float32), "INT64").dtype == np.float32
    assert cast_to(np.array(["a"]), "BYTES").dtype.kind == "U"
    # Neither a date nor a duration is a number.
    assert cast_to(np.array([5], "m8[s]"), "INT64").dtype.kind == "m"
    assert cast_to(np.array([256, 257.5], np.float32), "BF16").tolist() == [256, 257.5]
    assert cast_to(np.array([2**62], np.uint64), "INT64").tolist() == [2**62]


def test_an_array_without_a_datatype_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TypeError, match="complex128"):
        encode_request({"x": np.array([1j])}, None, use_binary=True)


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array([[1, 2**24 + 1]]), "FP32"),
        (np.array([1.0, 1_700_000_001.0]), "FP32"),
        (np.array([2**40]), "INT32"),
        (np.array([300], np.int16), "INT8"),
        (np.array([2049.0], np.float32), "FP16"),
        (np.array([257]), "BF16"),
        (np.array([257.0], np.float32), "BF16"),
        (np.array([2**63 - 1]), "FP32"),
        (np.array([1, 2**63], np.uint64), "INT64"),
        (np.array([1, 2**64 - 1], np.uint64), "FP64"),
        (np.array([-(2**31)], np.int32), "FP16"),
    ],
)
def test_a_cast_that_would_change_a_whole_number_is_refused_by_its_place(array: Array, datatype: str) -> None:
    with pytest.raises(TypeError, match=rf" at \[.*\] would become .* in {datatype}"):
        cast_to(array, datatype)


def test_a_cast_rounds_fractions_and_keeps_what_is_missing() -> None:
    cast = cast_to(np.array([0.1, 1e8 + 0.5, np.nan, np.inf, 2.0**30]), "FP32")

    assert cast.dtype == np.float32
    assert np.array_equal(cast, np.array([0.1, 1e8, np.nan, np.inf, 2.0**30], np.float32), equal_nan=True)


def test_what_is_masked_is_not_sent_as_a_number() -> None:
    masked = np.ma.array([[1.0, 2.0]], mask=[[0, 1]])

    for values in (masked, [masked[0]]):
        assert np.array_equal(to_array(values, "x"), [[1.0, np.nan]], equal_nan=True)
    with pytest.raises(TypeError, match=r"'x' is masked at \[1\], and int64 has no value for it"):
        to_array(np.ma.array([1, 2], mask=[0, 1]), "x")
    assert to_array(np.ma.array([1, 2]), "x").tolist() == [1, 2]
    assert type(to_array(np.ma.array([1.0]), "x")) is np.ndarray


@pytest.mark.parametrize("use_binary", [True, False])
@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, np.datetime64("NaT")])
def test_what_is_missing_is_no_text(missing: Any, use_binary: bool) -> None:
    with pytest.raises(TypeError, match=r"element 1 is .*, which is (missing|a datetime64); send texts"):
        encode_request({"x": np.array(["好", missing], object)}, None, use_binary)


@pytest.mark.parametrize("value", [3, 2.5, True, ["a"], {"a": 1}])
def test_what_is_no_text_is_not_sent_as_one(value: Any) -> None:
    array = np.empty(2, object)
    array[:] = ["a", value]

    with pytest.raises(TypeError, match=r"element 1 is .*, which is a \w+; send texts, str or bytes"):
        encode_request({"x": array}, None, use_binary=True)


def test_bytes_that_are_no_text_are_not_sent_as_json() -> None:
    array = np.array([b"\xff"], object)

    with pytest.raises(TypeError, match="bytes that are not UTF-8"):
        encode_request({"x": array}, None, use_binary=False)
