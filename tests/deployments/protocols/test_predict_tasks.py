"""Texts, predicates, series and tables with categories: what `predict` accepts, refuses and returns."""

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
from training.zoo.nets.recurrent import rnn_series_classifier, rnn_text_classifier
from training.zoo.nets.tagger import tagger

TEXTS = ["这本书很好", "不好看，很失望", "good book"]
CHARACTERS = Tokenizer.fit(TokenizerConfig(kind="characters"), TEXTS)
WORDS = Tokenizer.fit(TokenizerConfig(kind="words"), ["She gave him a book ."])


def make_codec(
    folder: Path, schema: InputSchema, output_schema: Any, net: nn.Module, inputs: Tensor, **files: Any
) -> PredictCodec:
    torch.manual_seed(0)
    task = {"classes": "text-classification", "number": "tabular-regression"}.get(
        output_schema.kind, "token-classification"
    )
    info = ModelInfo(name="m", task=task, input_schema=schema, output_schema=output_schema)  # type: ignore[arg-type]
    manifest = save_bundle(folder / "b", net, inputs=inputs, info=info, **files)
    bundle = load_bundle(folder / "b", manifest.digest)
    return PredictCodec(manifest, "1", Limits(), bundle.tokenizer)


# An export takes most of a second, and a codec holds no state.
codec_fixture = pytest.fixture(scope="module")


@codec_fixture
def text(tmp_path_factory: pytest.TempPathFactory) -> PredictCodec:
    net = rnn_text_classifier(
        vocab_size=len(CHARACTERS), num_classes=2, cell_type="gru", embedding_dim=4, hidden_size=4
    )
    rows = torch.tensor([CHARACTERS.encode(TEXTS[0]).ids, [4, 5, 6, 0, 0]])
    schema = TextInput(max_tokens=8)
    return make_codec(
        tmp_path_factory.mktemp("codec"),
        schema,
        ClassOutput(labels=("n", "p")),
        net,
        rows,
        tokenizer=CHARACTERS,
        example=TEXTS[0],
    )


@codec_fixture
def roles(tmp_path_factory: pytest.TempPathFactory) -> PredictCodec:
    net = tagger(vocab_size=len(WORDS), num_classes=5, embedding_dim=4, hidden_size=4)
    schema = TextInput(max_tokens=16, has_predicate=True)
    example = {"text": "She gave him a book .", "predicate": [4, 8]}
    rows = torch.tensor([WORDS.encode_with_predicate("She gave him a book .", 4, 8).ids] * 2)
    return make_codec(
        tmp_path_factory.mktemp("codec"),
        schema,
        SpanOutput(labels=("A", "B")),
        net,
        rows,
        tokenizer=WORDS,
        example=example,
    )


@codec_fixture
def series(tmp_path_factory: pytest.TempPathFactory) -> PredictCodec:
    net = rnn_series_classifier(num_features=2, num_classes=2, cell_type="gru", hidden_size=4)
    schema = SeriesInput(features=("a", "b"), max_time_steps=5)
    return make_codec(
        tmp_path_factory.mktemp("codec"), schema, ClassOutput(labels=("n", "p")), net, torch.randn(2, 4, 2)
    )


@codec_fixture
def cars(tmp_path_factory: pytest.TempPathFactory) -> PredictCodec:
    schema = TableInput(
        features=(Feature(name="weight"), Feature(name="origin", categories=("usa", "japan"))), allow_missing=True
    )
    return make_codec(
        tmp_path_factory.mktemp("codec"),
        schema,
        NumberOutput(name="mpg"),
        nn.Linear(2, 1),
        torch.ones(2, 2),
        outputs=("value",),
    )


def encode_request(*inputs: Any, **options: Any) -> bytes:
    return json.dumps({"inputs": inputs} | options).encode()


def test_texts_of_any_language_become_the_tokens_that_training_saw(text: PredictCodec) -> None:
    request = text.decode_request(encode_request("很好", "这本书很好"), "application/json")

    assert request.rows is not None
    assert [row.tolist() for row in request.rows] == [
        CHARACTERS.encode("很好").ids,
        CHARACTERS.encode("这本书很好").ids,
    ]


def test_a_long_text_is_truncated_as_in_training(text: PredictCodec) -> None:
    request = text.decode_request(encode_request("很" * 9), "application/json")

    assert request.rows is not None
    assert [row.shape for row in request.rows] == [(8,)]


def test_an_empty_and_an_unknown_text_are_one_unknown_token(text: PredictCodec) -> None:
    request = text.decode_request(encode_request("", "☃"), "application/json")

    assert request.rows is not None
    assert [row.tolist() for row in request.rows] == [[1], [1]]


@pytest.mark.parametrize(
    ("model", "body", "error", "message"),
    [
        ("text", encode_request(3), errors.InvalidType, "row 0 is a number; send a text"),
        (
            "roles",
            encode_request({"text": "a " * 15, "predicate": [0, 1]}),
            errors.PayloadTooLarge,
            "row 0 has more than 16 tokens, the limit; split the text",
        ),
        ("text", encode_request("好", top_k=0), errors.InvalidType, "top_k is 0"),
        ("text", encode_request("好", max_tokens=4), errors.MalformedBody, "max_tokens"),
        ("roles", encode_request("She gave"), errors.InvalidType, "not a text with a predicate"),
        ("roles", encode_request({"text": "She gave", "predicate": [4]}), errors.InvalidType, "predicate is"),
        (
            "roles",
            encode_request({"text": "She gave", "predicate": [4, 9]}),
            errors.InvalidShape,
            "outside the text of 8",
        ),
        ("roles", encode_request({"text": "She gave", "predicate": [4, 8], "x": 1}), errors.InvalidType, "send"),
        ("series", encode_request([]), errors.InvalidType, "row 0 is empty; send an array of time steps"),
        ("series", encode_request([1, 2]), errors.InvalidType, "time step 0 is not an array of numbers"),
        ("series", encode_request([[1, 2], [1]]), errors.InvalidShape, "unequal length"),
        ("series", encode_request([[1, 2, 3]]), errors.InvalidShape, "time steps of 3 numbers"),
        ("series", encode_request([[1, 2]] * 6), errors.PayloadTooLarge, "6 time steps; the limit is 5"),
        ("cars", encode_request({"weight": 1, "origin": "mars"}), errors.InvalidType, "send one of"),
        ("cars", encode_request({"weight": "1"}), errors.InvalidType, "'weight' is a string"),
        ("cars", encode_request({"wieght": 1}), errors.InvalidFeatures, "unknown"),
        ("cars", encode_request([1]), errors.InvalidShape, "1 values"),
        ("cars", encode_request([1e300, "usa"]), errors.NotFinite, "not finite"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(
    request: pytest.FixtureRequest, model: str, body: bytes, error: type[ClientError], message: str
) -> None:
    with pytest.raises(error, match=message):
        request.getfixturevalue(model).decode_request(body, "application/json")


def test_an_absent_feature_is_missing_and_a_category_is_its_index(cars: PredictCodec) -> None:
    request = cars.decode_request(
        encode_request({"origin": "japan"}, {"weight": 2.5, "origin": None}, [1, "usa"]), "application/json"
    )

    assert request.rows is not None
    assert np.isnan(request.rows).tolist() == [[True, False], [False, True], [False, False]]
    assert request.rows[0, 1] == 1.0


def test_a_number_has_its_targets_name(cars: PredictCodec) -> None:
    request = cars.decode_request(encode_request([1, "usa"]), "application/json")

    assert json.loads(cars.encode_response((np.array([[23.5]], np.float32),), request))["predictions"] == [
        {"mpg": 23.5}
    ]


def test_spans_are_in_characters_of_the_text_as_it_was_sent(roles: PredictCodec) -> None:
    request = roles.decode_request(
        encode_request({"text": "She gave him a book .", "predicate": [4, 8]}), "application/json"
    )
    assert request.rows is not None
    tags = np.zeros((1, len(request.rows[0]), 5), np.float32)
    # She | [OPEN] gave [CLOSE] | him a book .
    for token, tag in ((0, 1), (5, 3), (6, 4)):
        tags[0, token, tag] = 9

    prediction = json.loads(roles.encode_response((tags,), request))["predictions"][0]

    assert prediction["spans"] == [
        {"start": 0, "end": 3, "label": "A", "text": "She"},
        {"start": 13, "end": 19, "label": "B", "text": "a book"},
    ]


def test_a_span_is_decoded_from_the_most_likely_sequence_of_tags(roles: PredictCodec) -> None:
    request = roles.decode_request(
        encode_request({"text": "She gave him a book .", "predicate": [4, 8]}), "application/json"
    )
    assert request.rows is not None
    tags = np.zeros((1, len(request.rows[0]), 5), np.float32)
    tags[..., 0] = 9
    # By themselves, "a" is most likely outside a span, and "book" inside one that nothing begins.
    tags[0, 5], tags[0, 6] = (1, 0, 0, 0.8, 0), (0, 0, 0, 0.5, 3)

    prediction = json.loads(roles.encode_response((tags,), request))["predictions"][0]

    assert prediction["spans"] == [{"start": 13, "end": 19, "label": "B", "text": "a book"}]


def test_boxes_are_in_pixels_of_the_image_as_it_was_sent(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean((1, 2, 3))[:, None, None].expand(-1, 2, 6)

    info = ModelInfo(
        name="m",
        task="object-detection",
        input_schema=ImageInput(height=8, width=8, mode="L"),
        output_schema=BoxOutput(labels=("a", "b")),
    )
    rows = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    manifest = save_bundle(tmp_path / "b", Fixed(), inputs=rows, info=info, outputs=("boxes",))
    boxes = torch.tensor([[[0.0, 2.0, 4.0, 8.0, 0.9, 1.0], [0.0, 0.0, 1.0, 1.0, 0.1, 0.0]]])
    options = PredictCodec(manifest, "1", Limits())._request_type([])

    predictions = format_predictions(manifest, (boxes,), [(80, 16)], options)

    assert predictions == [{"boxes": [{"label": "b", "score": pytest.approx(0.9), "box": [0.0, 4.0, 40.0, 16.0]}]}]


def test_scores_are_divided_by_the_temperature(tmp_path: Path) -> None:
    output_schema = ClassOutput(labels=("n", "p"), temperature=2.0)
    info = ModelInfo(
        name="m", task="tabular-classification", input_schema=TableInput(features=("x",)), output_schema=output_schema
    )
    manifest = save_bundle(tmp_path / "b", nn.Linear(1, 2), inputs=torch.ones(2, 1), info=info)
    codec = PredictCodec(manifest, "1", Limits())
    y = torch.tensor([[0.0, 3.0]])

    request = codec.decode_request(encode_request([1]), "application/json")
    prediction = json.loads(codec.encode_response((y.numpy(),), request))["predictions"][0]

    assert prediction["score"] == pytest.approx(torch.softmax(y / 2, 1)[0, 1].item())
