"""A request's memory is bounded before it is allocated, however small its body is; at the default limits."""

import base64
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deployments.errors import PayloadTooLarge
from deployments.protocols.oip.codec import OipCodec
from deployments.protocols.predict.codec import PredictCodec
from deployments.settings import Limits
from tests.small_bundles import save_image, save_table, save_text_generator
from training.bundle.load import load_bundle
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
from training.schema import ClassOutput, SeriesInput

JSON = "application/json"


def measure_peak(decode: Any, *arguments: Any) -> int:
    """Bytes of Python's and numpy's memory that a refused request takes at most."""
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge):
        decode(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return save_image(tmp_path_factory.mktemp("pictures") / "b", size=224)


def make_pixel() -> str:
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_thousands_of_one_pixel_pictures_are_refused_before_they_grow(pictures: Manifest) -> None:
    codec = PredictCodec(pictures, "1", Limits())
    body = json.dumps({"inputs": [make_pixel()] * 6000}).encode()
    assert len(body) < 600_000

    assert measure_peak(codec.decode_request, body, JSON) < 10_000_000
    few = json.dumps({"inputs": [make_pixel()] * 10}).encode()
    assert np.asarray(codec.decode_request(few, JSON).rows).shape == (10, 1, 224, 224)


@pytest.mark.parametrize("item", ["0", "[]", "{}", '{"a":1}', "[[[]]]", "1.5"])
def test_json_of_many_small_values_is_refused_undecoded(tmp_path: Path, item: str) -> None:
    codec = PredictCodec(save_table(tmp_path / "b"), "1", Limits(max_rows=2**31))
    count = 30 * 2**20 // (len(item) + 1)
    body = b'{"inputs":[' + b",".join([item.encode()] * count) + b"]}"

    assert measure_peak(codec.decode_request, body, JSON) < len(body) + 1_000_000


def test_a_tensor_whose_json_is_larger_than_its_shape_is_refused_undecoded(tmp_path: Path) -> None:
    codec = OipCodec(save_table(tmp_path / "b"), "1", Limits())
    data = b",".join([b"0"] * 15 * 2**20)
    body = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[' + data + b"]}]}"

    assert measure_peak(codec.decode_request, body) < 2 * len(body) + 1_000_000


def test_a_tensors_shape_is_checked_before_its_bytes(pictures: Manifest) -> None:
    codec = OipCodec(pictures, "1", Limits())
    tensor = {"name": "input", "shape": [6000, 1, 224, 224], "datatype": "UINT8"}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 4}}]}).encode()

    assert measure_peak(codec.decode_request, header + bytes(4), len(header)) < 1_000_000


def test_a_series_is_counted_at_the_length_that_it_is_padded_to(tmp_path: Path) -> None:
    info = ModelInfo(
        name="s",
        task="audio-classification",
        input_schema=SeriesInput(features=tuple("abcdefgh"), max_time_steps=100_000),
        output_schema=ClassOutput(labels=("no", "yes")),
    )
    save_bundle(tmp_path / "b", MeanOfSteps(), inputs=torch.randn(2, 4, 8), info=info)
    codec = PredictCodec(verify_bundle(tmp_path / "b"), "1", Limits())
    long, short = [[0] * 8] * 10_000, [[0] * 8]
    body = json.dumps({"inputs": [long] + [short] * 1000}).encode()

    with pytest.raises(PayloadTooLarge, match=r"a tensor of shape \[1001, 10000, 8\] would take 320320000 bytes"):
        codec.decode_request(body, JSON)


class MeanOfSteps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, x_BTF: torch.Tensor) -> torch.Tensor:
        return self.linear(x_BTF.nan_to_num().mean(1))


def test_a_request_for_text_is_bounded_in_tokens(tmp_path: Path) -> None:
    manifest = save_text_generator(tmp_path / "b", "writer")
    codec = PredictCodec(manifest, "1", Limits(), load_bundle(tmp_path / "b").tokenizer)

    def request(rows: int, tokens: int) -> bytes:
        return json.dumps({"inputs": ["To be"] * rows, "max_tokens": tokens}).encode()

    with pytest.raises(PayloadTooLarge, match=r"65536 rows of max_tokens 1000 are 65536000 tokens; the limit is 32768"):
        codec.decode_request(request(65_536, 1000), JSON)
    assert len(codec.decode_request(request(32, 1000), JSON).row_contexts) == 32


def test_texts_are_cut_before_they_are_tokenized(tmp_path: Path) -> None:
    manifest = save_text_generator(tmp_path / "b", "writer")
    tokenizer = load_bundle(tmp_path / "b").tokenizer
    assert tokenizer is not None
    lengths: list[int] = []
    encode = tokenizer.encode
    tokenizer.encode = lambda text: (lengths.append(len(text)), encode(text))[1]  # type: ignore[method-assign]
    codec = PredictCodec(manifest, "1", Limits(), tokenizer)

    codec.decode_request(json.dumps({"inputs": ["to be " * 400_000]}).encode(), JSON)
    codec.decode_request(json.dumps({"inputs": ["t" * 2_000_000]}).encode(), JSON)
    codec.decode_request(json.dumps({"inputs": [" " * 2_000_000]}).encode(), JSON)

    # The model takes 64 tokens.
    assert max(lengths) <= 64 * 64


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> OipCodec:
    """A model of texts with a score of each of 2,048 tokens for each token."""
    manifest = save_text_generator(tmp_path_factory.mktemp("scores") / "b", "scores")
    spec = manifest.outputs[0].model_copy(update={"shape": (-1, -1, 2048)})
    return OipCodec(manifest.model_copy(update={"outputs": (spec,)}), "1", Limits())


@pytest.mark.parametrize(
    ("shape", "is_binary", "is_refused"),
    [
        # 32 KB of JSON made 0.13 GB of scores, 1 GB of numbers and 0.7 GB of JSON, with Python's lock held for 5 s.
        ((249, 64), False, True),
        ((249, 64), True, False),
        ((1000, 64), True, True),
        ((1, 64), False, False),
        ((40, 64), False, True),
        ((30, 10), False, False),
    ],
)
def test_scores_are_counted_before_they_are_computed(
    scores: OipCodec, shape: tuple[int, int], is_binary: bool, is_refused: bool
) -> None:
    tensor = {"name": "input", "shape": shape, "datatype": "INT64", "data": [7] * (shape[0] * shape[1])}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": is_binary}}).encode()

    if is_refused:
        with pytest.raises(PayloadTooLarge, match=f"the outputs of {shape[0]} rows of 64 time steps would take "):
            scores.decode_request(body)
    else:
        assert len(scores.decode_request(body).rows) == shape[0]
