import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deployments import errors
from deployments.errors import ClientError
from deployments.protocols.predict.codec import PredictCodec, PredictRequest
from deployments.protocols.predict.requests import ClassRequest
from deployments.settings import Limits
from training.bundle.verify import verify_bundle

RANDOM_PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}


@pytest.fixture
def table(table_bundle: Path) -> PredictCodec:
    return PredictCodec(verify_bundle(table_bundle), "1", Limits())


@pytest.fixture
def image(image_bundle: Path) -> PredictCodec:
    return PredictCodec(verify_bundle(image_bundle), "1", Limits(max_image_pixels=10_000))


def encode_request(*inputs: Any, **options: Any) -> bytes:
    return json.dumps({"inputs": inputs} | options).encode()


def encode_image(pixels: np.ndarray, format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_)
    return file.getvalue()


def test_a_record_by_name_and_a_list_in_order_are_the_same_row(table: PredictCodec) -> None:
    shuffled = dict(reversed(ROW.items()))

    x = table.decode_request(encode_request(ROW, list(ROW.values()), shuffled), "application/json").rows

    assert x.dtype == np.float32
    assert np.array_equal(x, np.array([[5.1, 3.5, 1.4, 0.2]] * 3, np.float32))


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", errors.MalformedBody, "the body is not"),
        (b"{", errors.MalformedBody, "the body is not"),
        (b'{"inputs": [[1, 2, 3, NaN]]}', errors.MalformedBody, "no NaN and no Infinity; write null"),
        (b'{"inputs": [[1, 2, 3, -Infinity]]}', errors.MalformedBody, "no NaN and no Infinity; write null"),
        (b"\xff\xfe", errors.MalformedBody, "the body is not"),
        (b'{"input": []}', errors.MalformedBody, "input"),
        (b'{"inputs": {}}', errors.MalformedBody, "the body is not"),
        (b'{"inputs": [[[' + b"[" * 100_000, errors.MalformedBody, "the body is not"),
        (b'{"inputs": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", errors.ClientError, "."),
        (encode_request(), errors.EmptyRequest, "send at least one row"),
        (encode_request([1, 2, 3]), errors.InvalidShape, "row 0 has 3 values; this model takes 4"),
        (encode_request([1, 2, 3, 4], [1, 2, 3, 4, 5]), errors.InvalidShape, "row 1 has 5 values"),
        (encode_request([1, 2, 3, "4"]), errors.InvalidType, "'weight' is a string"),
        (encode_request([1, 2, 3, True]), errors.InvalidType, "'weight' is a boolean"),
        (encode_request([1, 2, 3, None]), errors.InvalidType, "'weight' is null"),
        (encode_request([1, 2, 3, [4]]), errors.InvalidType, "'weight' is an array"),
        (encode_request("text"), errors.InvalidType, "row 0 is a string"),
        (encode_request(7), errors.InvalidType, "row 0 is a number"),
        (encode_request([1, 2, 3, 10**400]), errors.ClientError, "."),
        (encode_request([1, 2, 3, 1e39]), errors.NotFinite, "not finite"),
        (encode_request({"length": 1}), errors.InvalidFeatures, "missing: 'width'"),
        (encode_request(ROW | {"color": 1}), errors.InvalidFeatures, "unknown: 'color'"),
        (encode_request(list(ROW.values()), top_k=0), errors.InvalidType, "top_k is 0"),
        (encode_request(list(ROW.values()), top_k="a"), errors.MalformedBody, "top_k"),
        (encode_request(list(ROW.values()), tpo_k=1), errors.MalformedBody, "tpo_k"),
    ],
)
def test_an_invalid_table_request_is_refused_with_the_reason(
    table: PredictCodec, body: bytes, error: type[ClientError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        table.decode_request(body, "application/json")

    assert 400 <= caught.value.status < 500


def test_more_rows_than_the_limit_are_refused(table_bundle: Path) -> None:
    codec = PredictCodec(verify_bundle(table_bundle), "1", Limits(max_rows=2))

    with pytest.raises(errors.PayloadTooLarge, match="3 rows; the limit is 2"):
        codec.decode_request(encode_request(ROW, ROW, ROW), "application/json")


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_an_images_file_its_base64_and_its_pixels_are_the_same_row(image: PredictCodec, format_: str) -> None:
    file = io.BytesIO()
    Image.fromarray(RANDOM_PIXELS).save(file, format_, lossless=True)
    text = base64.b64encode(file.getvalue()).decode()

    from_file = image.decode_request(file.getvalue(), f"image/{format_.lower()}").rows
    from_json = image.decode_request(
        encode_request(text, f"data:image/png;base64,{text}", RANDOM_PIXELS.tolist(), [RANDOM_PIXELS.tolist()]),
        "application/json",
    ).rows

    assert np.array_equal(from_file, RANDOM_PIXELS[None, None])
    assert np.array_equal(from_json, np.repeat(from_file, 4, axis=0))


def test_a_jpeg_of_another_size_and_mode_is_converted_to_the_schemas(image: PredictCodec) -> None:
    x = image.decode_request(encode_image(np.full((32, 20, 3), 200, np.uint8), "JPEG"), "image/jpeg").rows

    assert x.shape == (1, 1, 8, 8)
    assert x.dtype == np.uint8
    assert np.abs(x.astype(float) - 200).max() <= 2


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (b"no image", "image/png", errors.InvalidImage),
        (b"", "image/png", errors.InvalidImage),
        (
            encode_image(RANDOM_PIXELS)[:60],
            "image/png",
            errors.InvalidImage,
        ),
        (encode_image(np.zeros((8, 8), np.uint8), "GIF"), "image/png", errors.InvalidImage),
        (encode_image(np.zeros((101, 100), np.uint8)), "image/png", errors.PayloadTooLarge),
        (encode_request("!!!"), "application/json", errors.InvalidImage),
        (encode_request(base64.b64encode(b"no image").decode()), "application/json", errors.InvalidImage),
        (encode_request([[1, 2], [3]]), "application/json", errors.InvalidShape),
        (encode_request([[1, 2], [3, 4]]), "application/json", errors.InvalidShape),
        (encode_request([[256] * 8] * 8), "application/json", errors.InvalidType),
        (encode_request([[-1] * 8] * 8), "application/json", errors.InvalidType),
        (encode_request([[0.5] * 8] * 8), "application/json", errors.InvalidType),
        (encode_request([["1"] * 8] * 8), "application/json", errors.InvalidType),
        (encode_request({}), "application/json", errors.InvalidType),
        (b"x", "text/plain", errors.UnsupportedMediaType),
    ],
)
def test_an_invalid_image_is_refused(
    image: PredictCodec, body: bytes, content_type: str, error: type[ClientError]
) -> None:
    with pytest.raises(error):
        image.decode_request(body, content_type)


@pytest.mark.parametrize("bad", ["!!!", base64.b64encode(b"no image").decode()])
def test_an_invalid_image_among_others_is_named_by_its_row(image: PredictCodec, bad: str) -> None:
    good = base64.b64encode(encode_image(RANDOM_PIXELS)).decode()

    with pytest.raises(errors.InvalidImage, match=r"^row 2: the "):
        image.decode_request(encode_request(good, good, bad), "application/json")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"length": 1, "width": 2, "height": 3}, "missing: 'weight'"),
        (ROW | {"depth": 1}, "unknown: 'depth'"),
        ({"length": 1, "width": 2, "height": 3, "wait": 4}, "missing: 'weight'; unknown: 'wait'"),
    ],
)
def test_features_that_lack_or_are_unknown_are_named(table: PredictCodec, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(errors.InvalidFeatures) as raised:
        table.decode_request(encode_request(ROW, row), "application/json")

    assert raised.value.message == f"row 1: {problem}; this model takes length, width, height, weight"


def test_a_decompression_bomb_is_refused_by_its_header_alone(image: PredictCodec) -> None:
    # 50,000 x 50,000 pixels: 2.5 GB decoded, a few hundred bytes sent.
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )

    with pytest.raises(errors.PayloadTooLarge, match="50000x50000"):
        image.decode_request(bomb, "image/png")


def test_the_images_of_a_request_share_one_pixel_budget(image: PredictCodec) -> None:
    text = base64.b64encode(encode_image(np.zeros((60, 60), np.uint8))).decode()

    image.decode_request(encode_request(text, text), "application/json")
    with pytest.raises(errors.PayloadTooLarge, match="10000 pixels in one request"):
        image.decode_request(encode_request(text, text, text), "application/json")


def test_a_table_model_takes_no_image(table: PredictCodec) -> None:
    with pytest.raises(errors.UnsupportedMediaType, match=r"send the header Content-Type: application/json$"):
        table.decode_request(encode_image(np.zeros((8, 8), np.uint8)), "image/png")


def test_a_response_has_the_best_label_and_the_top_k_scores(table: PredictCodec) -> None:
    response = json.loads(
        table.encode_response(
            (np.array([[0.0, 2.0, 1.0]], np.float32),), PredictRequest(None, [None], ClassRequest([], top_k=2))
        )
    )

    (prediction,) = response["predictions"]
    assert (response["model"], response["version"]) == ("flowers", "1")
    assert prediction["label"] == "b"
    assert list(prediction["scores"]) == ["b", "c"]
    assert prediction["score"] == pytest.approx(float(torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0)[1]))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300)
@given(body=st.binary(max_size=200) | JSON_VALUES.map(lambda v: json.dumps({"inputs": v}).encode()))
def test_any_body_gives_rows_or_a_client_error(codecs: tuple[PredictCodec, ...], body: bytes) -> None:
    for codec in codecs:
        for content_type in ("application/json", "image/png", ""):
            try:
                x = codec.decode_request(body, content_type).rows
            except ClientError:
                continue
            assert len(x) >= 1


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> tuple[PredictCodec, ...]:
    from tests.small_bundles import save_image, save_table

    folder = tmp_path_factory.mktemp("bundles")
    manifests = save_table(folder / "table"), save_image(folder / "image")
    return tuple(PredictCodec(manifest, "1", Limits()) for manifest in manifests)
