"""Tensors as raw bytes: every datatype there and back, and every size that does not fit."""

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
from deployments.protocols.arrays import Array
from deployments.protocols.oip import binary
from deployments.protocols.oip.binary import parse_header_length
from deployments.protocols.oip.codec import InferRequest, OipCodec
from tests.conftest import save_table
from training.bundle.datatypes import DATATYPES
from training.bundle.manifest import Manifest, TensorSpec

TYPES = {name: dtype for dtype, name in DATATYPES.items()}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return save_table(tmp_path_factory.mktemp("bundle") / "table")


def codec_of(manifest: Manifest, datatype: Any, texts: Any = None) -> OipCodec:
    """A codec of a model that takes and gives rows of four of one datatype."""
    specs = [TensorSpec(name=name, datatype=datatype, shape=(-1, 4)) for name in ("input", "logits")]
    changed = manifest.model_copy(update={"inputs": (specs[0],), "outputs": (specs[1],)})
    return OipCodec(changed, "1", 100, None, texts)


def body_of(content: bytes, padding: int = 0, **changes: Any) -> tuple[bytes, int]:
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": len(content)}}
    said = json.dumps({"inputs": [tensor | changes]}).encode() + b" " * padding
    return said + content, len(said)


def array(y: torch.Tensor) -> Array:
    """A tensor as it comes to the codec: bfloat16, which numpy does not know, as float32."""
    return (y.float() if y.dtype == torch.bfloat16 else y).numpy()


def written(codec: OipCodec, y: Array) -> tuple[dict[str, Any], bytes]:
    """One output's JSON and its bytes."""
    (whole,) = codec._all_as_bytes
    answer, length = codec.encode((y,), InferRequest(y, (whole,)))
    assert length is not None
    return json.loads(answer[:length])["outputs"][0], answer[length:]


@given(
    datatype=st.sampled_from(sorted(TYPES)),
    rows=st.integers(1, 100),
    padding=st.integers(0, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_tensor_of_any_datatype_comes_back_bit_by_bit(
    manifest: Manifest, datatype: str, rows: int, padding: int, seed: int
) -> None:
    codec, dtype = codec_of(manifest, datatype), TYPES[datatype]
    random = np.random.default_rng(seed)
    if dtype.is_floating_point:
        y = torch.from_numpy(random.normal(size=(rows, 4))).to(dtype)
    elif dtype == torch.bool:
        y = torch.from_numpy(random.integers(0, 2, (rows, 4)) > 0)
    else:
        y = torch.from_numpy(random.integers(0, 256, (rows, 4 * dtype.itemsize), dtype=np.uint8)).view(dtype)

    said, content = written(codec, array(y))
    assert content == bytes(y.contiguous().view(torch.uint8).numpy())
    assert said == {
        "name": "logits",
        "shape": [rows, 4],
        "datatype": datatype,
        "parameters": {"binary_data_size": rows * 4 * dtype.itemsize},
    }
    read = codec.decode(*body_of(content, padding, datatype=datatype, shape=[rows, 4])).rows

    assert isinstance(read, np.ndarray)
    assert read.dtype == array(y).dtype
    assert read.tobytes() == array(y).tobytes()


@given(datatype=st.sampled_from(sorted(TYPES)), values=st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_json_and_bytes_give_the_same_tensor(manifest: Manifest, datatype: str, values: list[int]) -> None:
    codec, y = codec_of(manifest, datatype), torch.tensor([values]).to(TYPES[datatype])
    data = [bool(value) for value in values] if datatype == "BOOL" else values
    said = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": datatype, "data": data}]}

    as_json = codec.decode(json.dumps(said).encode()).rows
    as_bytes = codec.decode(
        *body_of(bytes(binary.write_tensor(array(y), datatype)), datatype=datatype, shape=[1, 4])
    ).rows

    assert isinstance(as_json, np.ndarray)
    assert isinstance(as_bytes, np.ndarray)
    assert as_json.dtype == as_bytes.dtype == array(y).dtype
    assert as_json.tobytes() == as_bytes.tobytes() == array(y).tobytes()


def test_bytes_that_lie_aligned_are_not_copied(manifest: Manifest) -> None:
    content = torch.ones(2, 4).numpy().tobytes()
    bodies = [body_of(content, padding) for padding in range(4)]

    aligned = 0
    for body, length in bodies:
        x = codec_of(manifest, "FP32").decode(body, length).rows
        assert isinstance(x, np.ndarray)
        aligned += x.ctypes.data == np.frombuffer(body, np.uint8).ctypes.data + length
        assert x.ctypes.data % 4 == 0

    assert aligned == 1


def test_a_transposed_output_is_written_row_by_row(manifest: Manifest) -> None:
    y = np.arange(8, dtype=np.float32).reshape(4, 2).T

    _, content = written(codec_of(manifest, "FP32"), y)

    assert content == y.tobytes()


@pytest.mark.parametrize(
    ("content", "changes", "error", "said"),
    [
        (b"", {}, errors.InvalidShape, "0 bytes of FP32 were sent; its shape .* wants 32"),
        (b"1" * 31, {}, errors.InvalidShape, "31 bytes"),
        (b"1" * 36, {}, errors.InvalidShape, "36 bytes"),
        (b"1" * 32, {"parameters": {"binary_data_size": 31}}, errors.MalformedBody, "32 bytes follow.*says 31"),
        (b"1" * 32, {"parameters": {"binary_data_size": 2**60}}, errors.MalformedBody, "32 bytes follow"),
        (b"1" * 32, {"parameters": {"binary_data_size": -1}}, errors.MalformedBody, "binary_data_size"),
        (b"1" * 32, {"parameters": {}, "data": [1] * 8}, errors.MalformedBody, "32 bytes follow.*says 0"),
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
def test_bytes_that_do_not_fit_are_told_why(
    manifest: Manifest, content: bytes, changes: dict[str, Any], error: type[ClientError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        codec_of(manifest, "FP32").decode(*body_of(content, **changes))

    assert 400 <= caught.value.status < 500


def test_bytes_without_their_header_are_refused(manifest: Manifest) -> None:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}

    with pytest.raises(errors.MalformedBody, match="no Inference-Header-Content-Length"):
        codec_of(manifest, "FP32").decode(json.dumps({"inputs": [tensor]}).encode())


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP64"])
def test_infinity_is_found_in_every_width(manifest: Manifest, datatype: str) -> None:
    content = bytes(
        binary.write_tensor(array(torch.tensor([[0.0, 1.0, torch.inf, 2.0]]).to(TYPES[datatype])), datatype)
    )

    with pytest.raises(errors.NotFinite, match=datatype):
        codec_of(manifest, datatype).decode(*body_of(content, datatype=datatype, shape=[1, 4]))


def test_a_boolean_is_one_byte_of_0_or_1(manifest: Manifest) -> None:
    codec = codec_of(manifest, "BOOL")
    assert codec.decode(*body_of(b"\0\1\1\0", datatype="BOOL", shape=[1, 4])).rows.tolist() == [
        [False, True, True, False]
    ]

    with pytest.raises(errors.InvalidType, match="neither 0 nor 1"):
        codec.decode(*body_of(b"\0\1\2\0", datatype="BOOL", shape=[1, 4]))


def test_what_is_missing_may_be_nan_where_the_model_knows_that(manifest: Manifest) -> None:
    words = manifest.input_schema.model_copy(update={"missing": True})
    codec = OipCodec(manifest.model_copy(update={"words": words}), "1", 10)
    body, length = body_of(struct.pack("<4f", 1, math.nan, 3, 4), shape=[1, 4])

    assert np.isnan(codec.decode(body, length).rows).tolist() == [[False, True, False, False]]
    with pytest.raises(errors.NotFinite):
        codec.decode(body[:-4] + struct.pack("<f", math.inf), length)


@pytest.mark.parametrize("sent", [b"-1", b"0", b"11", b"1e1", b"x", b"9" * 5000, b" 5", "５".encode()])
def test_an_absurd_header_length_is_refused(sent: bytes) -> None:
    with pytest.raises(errors.MalformedBody, match="Inference-Header-Content-Length"):
        parse_header_length(sent, 10)


def test_a_header_length_is_a_number_of_bytes_or_absent() -> None:
    assert parse_header_length(b"", 10) is None
    assert parse_header_length(b"10", 10) == 10


def rows_of(texts: list[str]) -> Array:
    return np.array([[len(text), 0, 0, 0] for text in texts])


@given(st.lists(st.text(), min_size=1, max_size=20), st.booleans())
def test_texts_come_as_json_or_bytes(manifest: Manifest, texts: list[str], column: bool) -> None:
    codec = codec_of(manifest, "INT64", rows_of)
    shape = [len(texts), 1] if column else [len(texts)]
    data: Any = [[text] for text in texts] if column else texts
    tensor = {"name": "input", "shape": shape, "datatype": "BYTES", "data": data}

    as_json = codec.decode(json.dumps({"inputs": [tensor]}).encode()).rows
    content = binary.write_texts([text.encode("utf-8", "replace") for text in texts])
    as_bytes = codec.decode(*body_of(content, shape=shape, datatype="BYTES")).rows

    assert np.array_equal(as_json, rows_of(texts))
    assert np.array_equal(as_bytes, as_json)


@pytest.mark.parametrize(
    ("content", "shape", "error", "said"),
    [
        (b"\2\0\0\0ab", [2], errors.InvalidShape, "1 texts were sent; the shape says 2"),
        (b"\2\0\0\0ab" * 3, [2], errors.InvalidShape, "6 bytes are left over after 2 texts"),
        (b"\3\0\0\0ab", [1], errors.InvalidShape, "text 0 is cut short"),
        (b"\xff\xff\xff\xffab", [1], errors.InvalidShape, "text 0 is cut short"),
        (b"\2\0", [1], errors.InvalidShape, "text 0 is cut short"),
        (b"\2\0\0\0\xff\xfe", [1], errors.InvalidType, "text 0 is not UTF-8"),
        (b"\2\0\0\0ab", [1, 2], errors.InvalidShape, r"texts are of shape \[-1\] or \[-1, 1\]"),
        (b"\2\0\0\0ab", [], errors.InvalidShape, "texts are of shape"),
        (b"", [0], errors.EmptyRequest, "0 rows"),
        (b"", [101], errors.PayloadTooLarge, "101 rows"),
    ],
)
def test_texts_that_do_not_fit_are_told_why(
    manifest: Manifest, content: bytes, shape: list[int], error: type[ClientError], said: str
) -> None:
    with pytest.raises(error, match=said):
        codec_of(manifest, "INT64", rows_of).decode(*body_of(content, shape=shape, datatype="BYTES"))


@pytest.mark.parametrize("data", [[1], [["a", "b"]], "a", [None], {"a": 1}])
def test_what_is_no_text_is_told(manifest: Manifest, data: Any) -> None:
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": data}

    with pytest.raises(errors.InvalidType, match="no list of texts"):
        codec_of(manifest, "INT64", rows_of).decode(json.dumps({"inputs": [tensor]}).encode())


@given(st.binary(max_size=200), st.integers(1, 200))
def test_no_body_is_anything_but_read_or_refused(manifest: Manifest, body: bytes, length: int) -> None:
    with pytest.raises(ClientError):
        codec_of(manifest, "FP32").decode(body, min(length, len(body)))


def test_a_bundle_on_disk_knows_the_datatypes(tmp_path: Path, manifest: Manifest) -> None:
    spec = TensorSpec(name="input", datatype="BF16", shape=(-1, 4))

    assert Manifest.model_validate_json(manifest.model_copy(update={"inputs": (spec,)}).model_dump_json())
