"""Tensors as bytes: the round trip of every datatype, and every size that does not fit."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments import errors
from deployments.errors import ClientError
from deployments.protocols.arrays import Array, reshape_array
from deployments.protocols.oip import binary
from deployments.protocols.oip.binary import parse_header_length
from deployments.protocols.oip.codec import InferRequest, OipCodec
from deployments.settings import Limits
from tests.small_bundles import save_table
from training.bundle.datatypes import DATATYPES, torch_dtype
from training.bundle.manifest import Manifest, TensorSpec

TORCH_DTYPES = {name: torch_dtype(name) for name in DATATYPES}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return save_table(tmp_path_factory.mktemp("bundle") / "table")


def make_codec(manifest: Manifest, datatype: Any, tokenize: Any = None) -> OipCodec:
    """The codec of a model with rows of four elements of one datatype, in and out."""
    specs = [TensorSpec(name=name, datatype=datatype, shape=(-1, 4)) for name in ("input", "logits")]
    manifest = manifest.model_copy(update={"inputs": (specs[0],), "outputs": (specs[1],)})
    return OipCodec(manifest, "1", Limits(max_rows=100), None, tokenize)


def make_body(content: bytes, padding: int = 0, **changes: Any) -> tuple[bytes, int]:
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": len(content)}}
    header = json.dumps({"inputs": [tensor | changes]}).encode() + b" " * padding
    return header + content, len(header)


def to_numpy(y: torch.Tensor) -> Array:
    """A tensor as the codec gets it: bfloat16, which numpy lacks, as float32."""
    return (y.float() if y.dtype == torch.bfloat16 else y).numpy()


def encode_output(codec: OipCodec, y: Array) -> tuple[dict[str, Any], bytes]:
    """Encode a response; returns its output's JSON and bytes."""
    response, header_length = codec.encode_response((y,), InferRequest(y, codec._binary_outputs))
    assert header_length is not None
    assert header_length % 8 == 0
    return json.loads(response[:header_length])["outputs"][0], response[header_length:]


@given(
    datatype=st.sampled_from(sorted(TORCH_DTYPES)),
    rows=st.integers(1, 100),
    padding=st.integers(0, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_tensor_of_any_datatype_survives_the_round_trip_bit_by_bit(
    manifest: Manifest, datatype: str, rows: int, padding: int, seed: int
) -> None:
    codec, dtype = make_codec(manifest, datatype), TORCH_DTYPES[datatype]
    random = np.random.default_rng(seed)
    if dtype.is_floating_point:
        y = torch.from_numpy(random.normal(size=(rows, 4))).to(dtype)
    elif dtype == torch.bool:
        y = torch.from_numpy(random.integers(0, 2, (rows, 4)) > 0)
    else:
        y = torch.from_numpy(random.integers(0, 256, (rows, 4 * dtype.itemsize), dtype=np.uint8)).view(dtype)

    tensor, content = encode_output(codec, to_numpy(y))
    assert content == bytes(y.contiguous().view(torch.uint8).numpy())
    assert tensor == {
        "name": "logits",
        "shape": [rows, 4],
        "datatype": datatype,
        "parameters": {"binary_data_size": rows * 4 * dtype.itemsize},
    }
    rows = codec.decode_request(*make_body(content, padding, datatype=datatype, shape=[rows, 4])).rows

    assert isinstance(rows, np.ndarray)
    assert rows.dtype == to_numpy(y).dtype
    assert rows.tobytes() == to_numpy(y).tobytes()


@given(datatype=st.sampled_from(sorted(TORCH_DTYPES)), values=st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_json_and_bytes_give_the_same_tensor(manifest: Manifest, datatype: str, values: list[int]) -> None:
    codec, y = make_codec(manifest, datatype), torch.tensor([values]).to(TORCH_DTYPES[datatype])
    data = [bool(value) for value in values] if datatype == "BOOL" else values
    request = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": datatype, "data": data}]}

    as_json = codec.decode_request(json.dumps(request).encode()).rows
    as_bytes = codec.decode_request(
        *make_body(bytes(binary.encode_tensor(to_numpy(y), datatype)), datatype=datatype, shape=[1, 4])
    ).rows

    assert isinstance(as_json, np.ndarray)
    assert isinstance(as_bytes, np.ndarray)
    assert as_json.dtype == as_bytes.dtype == to_numpy(y).dtype
    assert as_json.tobytes() == as_bytes.tobytes() == to_numpy(y).tobytes()


def test_aligned_bytes_are_not_copied(manifest: Manifest) -> None:
    content = torch.ones(2, 4).numpy().tobytes()
    bodies = [make_body(content, padding) for padding in range(4)]

    aligned = 0
    for body, length in bodies:
        x = make_codec(manifest, "FP32").decode_request(body, length).rows
        assert isinstance(x, np.ndarray)
        aligned += x.ctypes.data == np.frombuffer(body, np.uint8).ctypes.data + length
        assert x.ctypes.data % 4 == 0

    assert aligned == 1


def test_a_transposed_output_is_encoded_row_by_row(manifest: Manifest) -> None:
    y = np.arange(8, dtype=np.float32).reshape(4, 2).T

    _, content = encode_output(make_codec(manifest, "FP32"), y)

    assert content == y.tobytes()


@pytest.mark.parametrize(
    ("content", "changes", "error", "message"),
    [
        (b"", {}, errors.InvalidShape, "0 bytes of FP32 were sent; its shape .* needs 32"),
        (b"1" * 31, {}, errors.InvalidShape, "31 bytes"),
        (b"1" * 36, {}, errors.InvalidShape, "36 bytes"),
        (b"1" * 32, {"parameters": {"binary_data_size": 31}}, errors.MalformedBody, "32 bytes follow.*is 31"),
        (b"1" * 32, {"parameters": {"binary_data_size": 2**60}}, errors.MalformedBody, "32 bytes follow"),
        (b"1" * 32, {"parameters": {"binary_data_size": -1}}, errors.MalformedBody, "binary_data_size"),
        (b"1" * 32, {"parameters": {}, "data": [1] * 8}, errors.MalformedBody, "32 bytes follow.*is 0"),
        (b"1" * 32, {"data": [1] * 8}, errors.MalformedBody, "both"),
        (b"1" * 32, {"parameters": {}}, errors.MalformedBody, "neither"),
        (b"1" * 32, {"datatype": "FP64", "shape": [1, 4]}, errors.InvalidType, "FP64; this model takes FP32"),
        (b"1" * 32, {"datatype": "BYTES"}, errors.InvalidType, "BYTES; this model takes FP32"),
        (b"1" * 32, {"shape": [2**40, 4]}, errors.PayloadTooLarge, "rows"),
        (b"1" * 32, {"shape": [-2, 4]}, errors.EmptyRequest, "-2 rows"),
        (struct.pack("<8f", *[math.nan] * 8), {}, errors.NotFinite, "not finite in FP32"),
        (struct.pack("<8f", *[0] * 7, -math.inf), {}, errors.NotFinite, "not finite in FP32"),
    ],
)
def test_bytes_that_do_not_fit_are_refused_with_the_reason(
    manifest: Manifest, content: bytes, changes: dict[str, Any], error: type[ClientError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        make_codec(manifest, "FP32").decode_request(*make_body(content, **changes))

    assert 400 <= caught.value.status < 500


def test_bytes_without_their_header_are_refused(manifest: Manifest) -> None:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}

    with pytest.raises(errors.MalformedBody, match="no header Inference-Header-Content-Length"):
        make_codec(manifest, "FP32").decode_request(json.dumps({"inputs": [tensor]}).encode())


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP64"])
def test_infinity_is_refused_in_every_width(manifest: Manifest, datatype: str) -> None:
    content = bytes(
        binary.encode_tensor(to_numpy(torch.tensor([[0.0, 1.0, torch.inf, 2.0]]).to(TORCH_DTYPES[datatype])), datatype)
    )

    with pytest.raises(errors.NotFinite, match=datatype):
        make_codec(manifest, datatype).decode_request(*make_body(content, datatype=datatype, shape=[1, 4]))


def test_a_boolean_is_one_byte_of_0_or_1(manifest: Manifest) -> None:
    codec = make_codec(manifest, "BOOL")
    assert codec.decode_request(*make_body(b"\0\1\1\0", datatype="BOOL", shape=[1, 4])).rows.tolist() == [
        [False, True, True, False]
    ]

    with pytest.raises(errors.InvalidType, match="neither 0 nor 1"):
        codec.decode_request(*make_body(b"\0\1\2\0", datatype="BOOL", shape=[1, 4]))


def test_a_missing_value_may_be_nan_where_the_schema_allows_it(manifest: Manifest) -> None:
    schema = manifest.input_schema.model_copy(update={"allow_missing": True})
    codec = OipCodec(manifest.model_copy(update={"input_schema": schema}), "1", Limits(max_rows=10))
    body, length = make_body(struct.pack("<4f", 1, math.nan, 3, 4), shape=[1, 4])

    assert np.isnan(codec.decode_request(body, length).rows).tolist() == [[False, True, False, False]]
    with pytest.raises(errors.NotFinite):
        codec.decode_request(body[:-4] + struct.pack("<f", math.inf), length)


@pytest.mark.parametrize("header", [b"-1", b"0", b"11", b"1e1", b"x", b"9" * 5000, b" 5", "５".encode()])
def test_an_invalid_header_length_is_refused(header: bytes) -> None:
    with pytest.raises(errors.MalformedBody, match="Inference-Header-Content-Length"):
        parse_header_length(header, 10)


def test_a_header_length_is_a_number_of_bytes_or_absent() -> None:
    assert parse_header_length(b"", 10) is None
    assert parse_header_length(b"10", 10) == 10


def encode_lengths(texts: list[str]) -> Array:
    return np.array([[len(text), 0, 0, 0] for text in texts])


@given(st.lists(st.text(), min_size=1, max_size=20), st.booleans())
def test_texts_may_be_json_or_bytes(manifest: Manifest, texts: list[str], is_column: bool) -> None:
    codec = make_codec(manifest, "INT64", encode_lengths)
    shape = [len(texts), 1] if is_column else [len(texts)]
    data: Any = [[text] for text in texts] if is_column else texts
    tensor = {"name": "input", "shape": shape, "datatype": "BYTES", "data": data}

    as_json = codec.decode_request(json.dumps({"inputs": [tensor]}).encode()).rows
    content = binary.encode_texts([text.encode("utf-8", "replace") for text in texts])
    as_bytes = codec.decode_request(*make_body(content, shape=shape, datatype="BYTES")).rows

    assert np.array_equal(as_json, encode_lengths(texts))
    assert np.array_equal(as_bytes, as_json)


@pytest.mark.parametrize(
    ("content", "shape", "error", "message"),
    [
        (b"\2\0\0\0ab", [2], errors.InvalidShape, "1 texts were sent; the shape has 2"),
        (b"\2\0\0\0ab" * 3, [2], errors.InvalidShape, "6 bytes are left over after 2 texts"),
        (b"\3\0\0\0ab", [1], errors.InvalidShape, "text 0 is cut off"),
        (b"\xff\xff\xff\xffab", [1], errors.InvalidShape, "text 0 is cut off"),
        (b"\2\0", [1], errors.InvalidShape, "text 0 is cut off"),
        (b"\2\0\0\0\xff\xfe", [1], errors.InvalidType, "text 0 is not UTF-8"),
        (b"\2\0\0\0ab", [1, 2], errors.InvalidShape, r"texts have shape \[-1\] or \[-1, 1\]"),
        (b"\2\0\0\0ab", [], errors.InvalidShape, "texts have shape"),
        (b"", [0], errors.EmptyRequest, "0 rows"),
        (b"", [101], errors.PayloadTooLarge, "101 rows"),
    ],
)
def test_texts_that_do_not_fit_are_refused_with_the_reason(
    manifest: Manifest, content: bytes, shape: list[int], error: type[ClientError], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_codec(manifest, "INT64", encode_lengths).decode_request(*make_body(content, shape=shape, datatype="BYTES"))


@pytest.mark.parametrize("data", [[1], [["a", "b"]], "a", [None], {"a": 1}])
def test_values_that_are_not_texts_are_refused(manifest: Manifest, data: Any) -> None:
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": data}

    with pytest.raises(errors.InvalidType, match="not a list of texts"):
        make_codec(manifest, "INT64", encode_lengths).decode_request(json.dumps({"inputs": [tensor]}).encode())


@given(st.binary(max_size=200), st.integers(1, 200))
def test_any_body_is_decoded_or_refused(manifest: Manifest, body: bytes, length: int) -> None:
    with pytest.raises(ClientError):
        make_codec(manifest, "FP32").decode_request(body, min(length, len(body)))


def test_a_manifest_may_have_any_datatype(tmp_path: Path, manifest: Manifest) -> None:
    spec = TensorSpec(name="input", datatype="BF16", shape=(-1, 4))

    assert Manifest.model_validate_json(manifest.model_copy(update={"inputs": (spec,)}).model_dump_json())


def test_data_that_does_not_fill_its_shape_is_refused_with_the_number_needed() -> None:
    with pytest.raises(errors.InvalidShape, match=r"data has 5 values; its shape \[2, 3\] needs 6"):
        reshape_array(np.zeros(5, np.float32), (2, 3))
