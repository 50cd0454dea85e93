"""Texts, marked texts, series and mixed tables: what a caller may send, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments import errors
from deployments.errors import ClientError
from deployments.protocols.predict.codec import PredictCodec
from deployments.protocols.predict.outputs import format_predictions
from deployments.settings import Limits
from training.bundle.load import load_bundle
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import (
    BoxOutput,
    ClassOutput,
    Feature,
    ImageInput,
    InputSchema,
    NumberOutput,
    SeriesInput,
    SpanOutput,
    TableInput,
    TextInput,
)
from training.zoo.nets.recurrent import recurrent_classifier, sequence_classifier
from training.zoo.nets.tagger import tagger

TEXTS = ["这本书很好", "不好看，很失望", "good book"]
TOKENISER = Tokenizer.fit(TokenizerConfig(kind="characters"), TEXTS)
WORDS = Tokenizer.fit(TokenizerConfig(kind="words"), ["She gave him a book ."])


def codec(folder: Path, words: InputSchema, answer: Any, net: nn.Module, inputs: Tensor, **more: Any) -> PredictCodec:
    torch.manual_seed(0)
    task = {"classes": "text-classification", "number": "tabular-regression"}.get(answer.kind, "token-classification")
    about = ModelInfo(name="m", task=task, input_schema=words, output_schema=answer)  # type: ignore[arg-type]
    manifest = save_bundle(folder / "b", net, inputs=inputs, info=about, **more)
    loaded = load_bundle(folder / "b", manifest.digest)
    return PredictCodec(manifest, "1", Limits(), loaded.tokenizer)


@pytest.fixture
def text(tmp_path: Path) -> PredictCodec:
    net = recurrent_classifier(vocabulary=len(TOKENISER), classes=2, cell="gru", dim=4, width=4)
    rows = torch.tensor([TOKENISER.encode(TEXTS[0]).ids, [4, 5, 6, 0, 0]])
    words = TextInput(max_tokens=8)
    return codec(tmp_path, words, ClassOutput(labels=("n", "p")), net, rows, tokeniser=TOKENISER, example=TEXTS[0])


@pytest.fixture
def marked(tmp_path: Path) -> PredictCodec:
    net = tagger(vocabulary=len(WORDS), classes=5, dim=4, width=4)
    words = TextInput(max_tokens=16, has_predicate=True)
    example = {"text": "She gave him a book .", "predicate": [4, 8]}
    rows = torch.tensor([WORDS.encode_marked("She gave him a book .", 4, 8).ids] * 2)
    return codec(tmp_path, words, SpanOutput(labels=("A", "B")), net, rows, tokeniser=WORDS, example=example)


@pytest.fixture
def series(tmp_path: Path) -> PredictCodec:
    net = sequence_classifier(features=2, classes=2, cell="gru", width=4)
    words = SeriesInput(features=("a", "b"), max_time_steps=5)
    return codec(tmp_path, words, ClassOutput(labels=("n", "p")), net, torch.randn(2, 4, 2))


@pytest.fixture
def cars(tmp_path: Path) -> PredictCodec:
    words = TableInput(
        features=(Feature(name="weight"), Feature(name="origin", categories=("usa", "japan"))), allow_missing=True
    )
    return codec(tmp_path, words, NumberOutput(name="mpg"), nn.Linear(2, 1), torch.ones(2, 2), outputs=("value",))


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs} | more).encode()


def test_texts_of_any_language_become_the_tokens_that_training_saw(text: PredictCodec) -> None:
    asked = text.decode(body("很好", "这本书很好"), "application/json")

    assert asked.rows is not None
    assert [row.tolist() for row in asked.rows] == [TOKENISER.encode("很好").ids, TOKENISER.encode("这本书很好").ids]


def test_a_long_text_is_read_as_far_as_training_read_one(text: PredictCodec) -> None:
    asked = text.decode(body("很" * 9), "application/json")

    assert asked.rows is not None
    assert [row.shape for row in asked.rows] == [(8,)]


def test_a_text_of_nothing_known_or_of_nothing_is_one_unknown_token(text: PredictCodec) -> None:
    asked = text.decode(body("", "☃"), "application/json")

    assert asked.rows is not None
    assert [row.tolist() for row in asked.rows] == [[1], [1]]


@pytest.mark.parametrize(
    ("model", "raw", "error", "said"),
    [
        ("text", body(3), errors.InvalidType, "row 0 is a number; send a text"),
        (
            "marked",
            body({"text": "a " * 15, "predicate": [0, 1]}),
            errors.PayloadTooLarge,
            "17 tokens; the limit is 16",
        ),
        ("text", body("好", top_k=0), errors.InvalidType, "top_k is 0"),
        ("text", body("好", max_tokens=4), errors.MalformedBody, "max_tokens"),
        ("marked", body("She gave"), errors.InvalidType, "no text with a predicate"),
        ("marked", body({"text": "She gave", "predicate": [4]}), errors.InvalidType, "predicate is"),
        ("marked", body({"text": "She gave", "predicate": [4, 9]}), errors.InvalidShape, "not inside a text of 8"),
        ("marked", body({"text": "She gave", "predicate": [4, 8], "x": 1}), errors.InvalidType, "send"),
        ("series", body([]), errors.InvalidType, "send a list of steps"),
        ("series", body([1, 2]), errors.InvalidType, "step 0 is no list of numbers"),
        ("series", body([[1, 2], [1]]), errors.InvalidShape, "unequal length"),
        ("series", body([[1, 2, 3]]), errors.InvalidShape, "steps of 3 numbers"),
        ("series", body([[1, 2]] * 6), errors.PayloadTooLarge, "6 steps; the limit is 5"),
        ("cars", body({"weight": 1, "origin": "mars"}), errors.InvalidType, "it is one of"),
        ("cars", body({"weight": "1"}), errors.InvalidType, "'weight' is a text"),
        ("cars", body({"wieght": 1}), errors.InvalidFeatures, "unknown"),
        ("cars", body([1]), errors.InvalidShape, "1 values"),
        ("cars", body([1e300, "usa"]), errors.NotFinite, "not finite"),
    ],
)
def test_what_a_model_does_not_take_is_a_4xx_that_says_why(
    request: pytest.FixtureRequest, model: str, raw: bytes, error: type[ClientError], said: str
) -> None:
    with pytest.raises(error, match=said):
        request.getfixturevalue(model).decode(raw, "application/json")


def test_a_feature_left_out_is_missing_and_a_level_is_its_place(cars: PredictCodec) -> None:
    asked = cars.decode(body({"origin": "japan"}, {"weight": 2.5, "origin": None}, [1, "usa"]), "application/json")

    assert asked.rows is not None
    assert np.isnan(asked.rows).tolist() == [[True, False], [False, True], [False, False]]
    assert asked.rows[0, 1] == 1.0


def test_a_number_comes_back_under_its_name(cars: PredictCodec) -> None:
    asked = cars.decode(body([1, "usa"]), "application/json")

    assert json.loads(cars.encode((np.array([[23.5]], np.float32),), asked))["predictions"] == [{"mpg": 23.5}]


def test_spans_are_told_in_characters_of_the_text_that_was_sent(marked: PredictCodec) -> None:
    asked = marked.decode(body({"text": "She gave him a book .", "predicate": [4, 8]}), "application/json")
    assert asked.rows is not None
    tags = np.zeros((1, len(asked.rows[0]), 5), np.float32)
    # She | [OPEN] gave [CLOSE] | him a book .
    for token, tag in ((0, 1), (5, 3), (6, 4)):
        tags[0, token, tag] = 9

    said = json.loads(marked.encode((tags,), asked))["predictions"][0]

    assert said["spans"] == [
        {"start": 0, "end": 3, "label": "A", "text": "She"},
        {"start": 13, "end": 19, "label": "B", "text": "a book"},
    ]


def test_a_span_begins_where_its_tags_are_likeliest_together(marked: PredictCodec) -> None:
    asked = marked.decode(body({"text": "She gave him a book .", "predicate": [4, 8]}), "application/json")
    assert asked.rows is not None
    tags = np.zeros((1, len(asked.rows[0]), 5), np.float32)
    tags[..., 0] = 9
    # Alone, "a" is likeliest outside, and "book" inside a span that nothing begins.
    tags[0, 5], tags[0, 6] = (1, 0, 0, 0.8, 0), (0, 0, 0, 0.5, 3)

    said = json.loads(marked.encode((tags,), asked))["predictions"][0]

    assert said["spans"] == [{"start": 13, "end": 19, "label": "B", "text": "a book"}]


def test_boxes_are_told_in_the_pixels_of_the_picture_that_was_sent(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean((1, 2, 3))[:, None, None].expand(-1, 2, 6)

    about = ModelInfo(
        name="m",
        task="object-detection",
        input_schema=ImageInput(height=8, width=8, mode="L"),
        output_schema=BoxOutput(labels=("a", "b")),
    )
    rows = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    manifest = save_bundle(tmp_path / "b", Fixed(), inputs=rows, info=about, outputs=("boxes",))
    found = torch.tensor([[[0.0, 2.0, 4.0, 8.0, 0.9, 1.0], [0.0, 0.0, 1.0, 1.0, 0.1, 0.0]]])
    asked = PredictCodec(manifest, "1", Limits())._form([])

    said = format_predictions(manifest, (found,), [(80, 16)], asked)

    assert said == [{"boxes": [{"label": "b", "score": pytest.approx(0.9), "box": [0.0, 4.0, 40.0, 16.0]}]}]


def test_calibrated_scores_follow_the_temperature(tmp_path: Path) -> None:
    answer = ClassOutput(labels=("n", "p"), temperature=2.0)
    about = ModelInfo(
        name="m", task="tabular-classification", input_schema=TableInput(features=("x",)), output_schema=answer
    )
    manifest = save_bundle(tmp_path / "b", nn.Linear(1, 2), inputs=torch.ones(2, 1), info=about)
    made = PredictCodec(manifest, "1", Limits())
    y = torch.tensor([[0.0, 3.0]])

    said = json.loads(made.encode((y.numpy(),), made.decode(body([1]), "application/json")))["predictions"][0]

    assert said["score"] == pytest.approx(torch.softmax(y / 2, 1)[0, 1].item())
