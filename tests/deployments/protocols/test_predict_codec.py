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
from deployments.protocols.predict.outputs import ClassRequest
from deployments.settings import Limits
from training.bundle.load import verify_bundle

ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}


@pytest.fixture
def table(table_bundle: Path) -> PredictCodec:
    return PredictCodec(verify_bundle(table_bundle), "1", Limits())


@pytest.fixture
def image(image_bundle: Path) -> PredictCodec:
    return PredictCodec(verify_bundle(image_bundle), "1", Limits(max_image_pixels=10_000))


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs} | more).encode()


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def test_a_record_by_name_and_a_list_in_order_are_the_same_row(table: PredictCodec) -> None:
    shuffled = dict(reversed(ROW.items()))

    x = table.decode(body(ROW, list(ROW.values()), shuffled), "application/json").rows

    assert x.dtype == np.float32
    assert np.array_equal(x, np.array([[5.1, 3.5, 1.4, 0.2]] * 3, np.float32))


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (b"", errors.MalformedBody, "the body is not"),
        (b"{", errors.MalformedBody, "the body is not"),
        (b'{"inputs": [[1, 2, 3, NaN]]}', errors.MalformedBody, "the body is not"),
        (b"\xff\xfe", errors.MalformedBody, "the body is not"),
        (b'{"input": []}', errors.MalformedBody, "input"),
        (b'{"inputs": {}}', errors.MalformedBody, "the body is not"),
        (b'{"inputs": [[[' + b"[" * 100_000, errors.MalformedBody, "the body is not"),
        (b'{"inputs": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", errors.ClientError, "."),
        (body(), errors.EmptyRequest, "send one row"),
        (body([1, 2, 3]), errors.InvalidShape, "row 0 has 3 values; this model takes 4"),
        (body([1, 2, 3, 4], [1, 2, 3, 4, 5]), errors.InvalidShape, "row 1 has 5 values"),
        (body([1, 2, 3, "4"]), errors.InvalidType, "'weight' is a text"),
        (body([1, 2, 3, True]), errors.InvalidType, "'weight' is a boolean"),
        (body([1, 2, 3, None]), errors.InvalidType, "'weight' is a null"),
        (body([1, 2, 3, [4]]), errors.InvalidType, "'weight' is a list"),
        (body("text"), errors.InvalidType, "row 0 is a text"),
        (body(7), errors.InvalidType, "row 0 is a number"),
        (body([1, 2, 3, 10**400]), errors.ClientError, "."),
        (body([1, 2, 3, 1e39]), errors.NotFinite, "not finite"),
        (body({"length": 1}), errors.InvalidFeatures, "missing .*'width'"),
        (body(ROW | {"colour": 1}), errors.InvalidFeatures, "unknown .*'colour'"),
        (body(list(ROW.values()), top_k=0), errors.InvalidType, "top_k is 0"),
        (body(list(ROW.values()), top_k="a"), errors.MalformedBody, "top_k"),
        (body(list(ROW.values()), tpo_k=1), errors.MalformedBody, "tpo_k"),
    ],
)
def test_a_wrong_table_request_is_told_what_is_wrong(
    table: PredictCodec, raw: bytes, error: type[ClientError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        table.decode(raw, "application/json")

    assert 400 <= caught.value.status < 500


def test_more_rows_than_the_limit_are_refused(table_bundle: Path) -> None:
    codec = PredictCodec(verify_bundle(table_bundle), "1", Limits(max_rows=2))

    with pytest.raises(errors.PayloadTooLarge, match="3 rows; the limit is 2"):
        codec.decode(body(ROW, ROW, ROW), "application/json")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_pictures_bytes_its_base64_and_its_pixels_are_the_same_row(image: PredictCodec, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, lossless=True)
    text = base64.b64encode(out.getvalue()).decode()

    direct = image.decode(out.getvalue(), f"image/{kind.lower()}").rows
    by_text = image.decode(
        body(text, f"data:image/png;base64,{text}", pixels.tolist(), [pixels.tolist()]), "application/json"
    ).rows

    assert np.array_equal(direct, pixels[None, None])
    assert np.array_equal(by_text, np.repeat(direct, 4, axis=0))


def test_a_jpeg_of_another_size_and_colour_is_turned_into_what_the_model_takes(image: PredictCodec) -> None:
    x = image.decode(png(np.full((32, 20, 3), 200, np.uint8), "JPEG"), "image/jpeg").rows

    assert x.shape == (1, 1, 8, 8)
    assert x.dtype == np.uint8
    assert np.abs(x.astype(float) - 200).max() <= 2


@pytest.mark.parametrize(
    ("raw", "kind", "error"),
    [
        (b"no picture", "image/png", errors.InvalidImage),
        (b"", "image/png", errors.InvalidImage),
        (png(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))[:60], "image/png", errors.InvalidImage),
        (png(np.zeros((8, 8), np.uint8), "GIF"), "image/png", errors.InvalidImage),
        (png(np.zeros((101, 100), np.uint8)), "image/png", errors.PayloadTooLarge),
        (body("!!!"), "application/json", errors.InvalidImage),
        (body(base64.b64encode(b"no picture").decode()), "application/json", errors.InvalidImage),
        (body([[1, 2], [3]]), "application/json", errors.InvalidShape),
        (body([[1, 2], [3, 4]]), "application/json", errors.InvalidShape),
        (body([[256] * 8] * 8), "application/json", errors.InvalidType),
        (body([[-1] * 8] * 8), "application/json", errors.InvalidType),
        (body([[0.5] * 8] * 8), "application/json", errors.InvalidType),
        (body([["1"] * 8] * 8), "application/json", errors.InvalidType),
        (body({}), "application/json", errors.InvalidType),
        (b"x", "text/plain", errors.UnsupportedMediaType),
    ],
)
def test_a_wrong_picture_is_told_what_is_wrong(
    image: PredictCodec, raw: bytes, kind: str, error: type[ClientError]
) -> None:
    with pytest.raises(error):
        image.decode(raw, kind)


def test_a_decompression_bomb_is_refused_by_its_header_alone(image: PredictCodec) -> None:
    # 50,000 x 50,000 pixels: 2.5 GB decoded, a few hundred bytes sent.
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )

    with pytest.raises(errors.PayloadTooLarge, match="50000x50000"):
        image.decode(bomb, "image/png")


def test_many_pictures_share_one_budget_of_pixels(image: PredictCodec) -> None:
    text = base64.b64encode(png(np.zeros((60, 60), np.uint8))).decode()

    image.decode(body(text, text), "application/json")
    with pytest.raises(errors.PayloadTooLarge, match="10000 pixels in one request"):
        image.decode(body(text, text, text), "application/json")


def test_a_picture_is_no_content_for_a_table(table: PredictCodec) -> None:
    with pytest.raises(errors.UnsupportedMediaType, match="nothing else"):
        table.decode(png(np.zeros((8, 8), np.uint8)), "image/png")


def test_an_answer_names_the_best_label_and_the_scores_of_the_best_k(table: PredictCodec) -> None:
    answer = json.loads(
        table.encode(
            (np.array([[0.0, 2.0, 1.0]], np.float32),), PredictRequest(None, [None], ClassRequest([], top_k=2))
        )
    )

    (prediction,) = answer["predictions"]
    assert (answer["model"], answer["version"]) == ("flowers", "1")
    assert prediction["label"] == "b"
    assert list(prediction["scores"]) == ["b", "c"]
    assert prediction["score"] == pytest.approx(float(torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0)[1]))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200) | JSON_VALUES.map(lambda v: json.dumps({"inputs": v}).encode()))
def test_no_body_whatever_is_anything_but_rows_or_a_client_error(codecs: tuple[PredictCodec, ...], raw: bytes) -> None:
    for codec in codecs:
        for kind in ("application/json", "image/png", ""):
            try:
                x = codec.decode(raw, kind).rows
            except ClientError:
                continue
            assert len(x) >= 1


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> tuple[PredictCodec, ...]:
    from tests.conftest import save_image, save_table

    folder = tmp_path_factory.mktemp("bundles")
    manifests = save_table(folder / "table"), save_image(folder / "image")
    return tuple(PredictCodec(manifest, "1", Limits()) for manifest in manifests)
