"""Texts, marked texts, series and mixed tables: what a caller may send, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments import errors
from deployments.codec.answers import predictions
from deployments.codec.predict import Codec
from deployments.errors import ClientError
from deployments.settings import Limits
from training import bundle
from training.bundle import About
from training.nets.recurrent import recurrent_classifier, sequence_classifier
from training.nets.tagger import tagger
from training.recipe import Tokens
from training.tokens import Tokeniser
from training.words import Boxes, Classes, Feature, ImageWords, Number, SeriesWords, Spans, TableWords, TextWords, Words

TEXTS = ["这本书很好", "不好看，很失望", "good book"]
TOKENISER = Tokeniser.fit(Tokens(kind="characters"), TEXTS)
WORDS = Tokeniser.fit(Tokens(kind="words"), ["She gave him a book ."])


def codec(folder: Path, words: Words, answer: Any, net: nn.Module, inputs: Tensor, **more: Any) -> Codec:
    torch.manual_seed(0)
    task = {"classes": "text-classification", "number": "tabular-regression"}.get(answer.kind, "token-classification")
    about = About(name="m", task=task, words=words, answer=answer)  # type: ignore[arg-type]
    manifest = bundle.save(folder / "b", net, inputs=inputs, about=about, **more)
    loaded = bundle.load(folder / "b", manifest.digest)
    return Codec(manifest, "1", Limits(), loaded.tokeniser)


@pytest.fixture
def text(tmp_path: Path) -> Codec:
    net = recurrent_classifier(vocabulary=len(TOKENISER), classes=2, cell="gru", dim=4, width=4)
    rows = torch.tensor([TOKENISER.encode(TEXTS[0]).ids, [4, 5, 6, 0, 0]])
    words = TextWords(max_tokens=8)
    return codec(tmp_path, words, Classes(labels=("n", "p")), net, rows, tokeniser=TOKENISER, example=TEXTS[0])


@pytest.fixture
def marked(tmp_path: Path) -> Codec:
    net = tagger(vocabulary=len(WORDS), classes=5, dim=4, width=4)
    words = TextWords(max_tokens=16, predicate=True)
    example = {"text": "She gave him a book .", "predicate": [4, 8]}
    rows = torch.tensor([WORDS.encode_marked("She gave him a book .", 4, 8).ids] * 2)
    return codec(tmp_path, words, Spans(types=("A", "B")), net, rows, tokeniser=WORDS, example=example)


@pytest.fixture
def series(tmp_path: Path) -> Codec:
    net = sequence_classifier(features=2, classes=2, cell="gru", width=4)
    words = SeriesWords(features=("a", "b"), max_steps=5)
    return codec(tmp_path, words, Classes(labels=("n", "p")), net, torch.randn(2, 4, 2))


@pytest.fixture
def cars(tmp_path: Path) -> Codec:
    words = TableWords(features=(Feature(name="weight"), Feature(name="origin", levels=("usa", "japan"))), missing=True)
    return codec(tmp_path, words, Number(name="mpg"), nn.Linear(2, 1), torch.ones(2, 2), outputs=("value",))


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs} | more).encode()


def test_texts_of_any_language_become_the_tokens_that_training_saw(text: Codec) -> None:
    asked = text.decode(body("很好", "这本书很好"), "application/json")

    assert asked.x is not None
    assert [row.tolist() for row in asked.x] == [TOKENISER.encode("很好").ids, TOKENISER.encode("这本书很好").ids]


def test_a_long_text_is_read_as_far_as_training_read_one(text: Codec) -> None:
    asked = text.decode(body("很" * 9), "application/json")

    assert asked.x is not None
    assert [row.shape for row in asked.x] == [(8,)]


def test_a_text_of_nothing_known_or_of_nothing_is_one_unknown_token(text: Codec) -> None:
    asked = text.decode(body("", "☃"), "application/json")

    assert asked.x is not None
    assert [row.tolist() for row in asked.x] == [[1], [1]]


@pytest.mark.parametrize(
    ("model", "raw", "error", "said"),
    [
        ("text", body(3), errors.WrongType, "row 0 is a number; send a text"),
        ("marked", body({"text": "a " * 15, "predicate": [0, 1]}), errors.TooLarge, "17 tokens; the limit is 16"),
        ("text", body("好", top_k=0), errors.WrongType, "top_k is 0"),
        ("text", body("好", max_tokens=4), errors.MalformedBody, "max_tokens"),
        ("marked", body("She gave"), errors.WrongType, "no text with a predicate"),
        ("marked", body({"text": "She gave", "predicate": [4]}), errors.WrongType, "predicate is"),
        ("marked", body({"text": "She gave", "predicate": [4, 9]}), errors.WrongShape, "not inside a text of 8"),
        ("marked", body({"text": "She gave", "predicate": [4, 8], "x": 1}), errors.WrongType, "send"),
        ("series", body([]), errors.WrongType, "send a list of steps"),
        ("series", body([1, 2]), errors.WrongType, "step 0 is no list of numbers"),
        ("series", body([[1, 2], [1]]), errors.WrongShape, "unequal length"),
        ("series", body([[1, 2, 3]]), errors.WrongShape, "steps of 3 numbers"),
        ("series", body([[1, 2]] * 6), errors.TooLarge, "6 steps; the limit is 5"),
        ("cars", body({"weight": 1, "origin": "mars"}), errors.WrongType, "it is one of"),
        ("cars", body({"weight": "1"}), errors.WrongType, "'weight' is a text"),
        ("cars", body({"wieght": 1}), errors.UnknownFeature, "unknown"),
        ("cars", body([1]), errors.WrongShape, "1 values"),
        ("cars", body([1e300, "usa"]), errors.NotFinite, "not finite"),
    ],
)
def test_what_a_model_does_not_take_is_a_4xx_that_says_why(
    request: pytest.FixtureRequest, model: str, raw: bytes, error: type[ClientError], said: str
) -> None:
    with pytest.raises(error, match=said):
        request.getfixturevalue(model).decode(raw, "application/json")


def test_a_feature_left_out_is_missing_and_a_level_is_its_place(cars: Codec) -> None:
    asked = cars.decode(body({"origin": "japan"}, {"weight": 2.5, "origin": None}, [1, "usa"]), "application/json")

    assert asked.x is not None
    assert np.isnan(asked.x).tolist() == [[True, False], [False, True], [False, False]]
    assert asked.x[0, 1] == 1.0


def test_a_number_comes_back_under_its_name(cars: Codec) -> None:
    asked = cars.decode(body([1, "usa"]), "application/json")

    assert json.loads(cars.encode((np.array([[23.5]], np.float32),), asked))["predictions"] == [{"mpg": 23.5}]


def test_spans_are_told_in_characters_of_the_text_that_was_sent(marked: Codec) -> None:
    asked = marked.decode(body({"text": "She gave him a book .", "predicate": [4, 8]}), "application/json")
    assert asked.x is not None
    tags = np.zeros((1, len(asked.x[0]), 5), np.float32)
    # She | [OPEN] gave [CLOSE] | him a book .
    for token, tag in ((0, 1), (5, 3), (6, 4)):
        tags[0, token, tag] = 9

    said = json.loads(marked.encode((tags,), asked))["predictions"][0]

    assert said["spans"] == [
        {"start": 0, "end": 3, "label": "A", "text": "She"},
        {"start": 13, "end": 19, "label": "B", "text": "a book"},
    ]


def test_a_span_begins_where_its_tags_are_likeliest_together(marked: Codec) -> None:
    asked = marked.decode(body({"text": "She gave him a book .", "predicate": [4, 8]}), "application/json")
    assert asked.x is not None
    tags = np.zeros((1, len(asked.x[0]), 5), np.float32)
    tags[..., 0] = 9
    # Alone, "a" is likeliest outside, and "book" inside a span that nothing begins.
    tags[0, 5], tags[0, 6] = (1, 0, 0, 0.8, 0), (0, 0, 0, 0.5, 3)

    said = json.loads(marked.encode((tags,), asked))["predictions"][0]

    assert said["spans"] == [{"start": 13, "end": 19, "label": "B", "text": "a book"}]


def test_boxes_are_told_in_the_pixels_of_the_picture_that_was_sent(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean((1, 2, 3))[:, None, None].expand(-1, 2, 6)

    about = About(
        name="m",
        task="object-detection",
        words=ImageWords(height=8, width=8, mode="L"),
        answer=Boxes(labels=("a", "b")),
    )
    rows = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    manifest = bundle.save(tmp_path / "b", Fixed(), inputs=rows, about=about, outputs=("boxes",))
    found = torch.tensor([[[0.0, 2.0, 4.0, 8.0, 0.9, 1.0], [0.0, 0.0, 1.0, 1.0, 0.1, 0.0]]])
    asked = Codec(manifest, "1", Limits())._form([])

    said = predictions(manifest, (found,), [(80, 16)], asked)

    assert said == [{"boxes": [{"label": "b", "score": pytest.approx(0.9), "box": [0.0, 4.0, 40.0, 16.0]}]}]


def test_calibrated_scores_follow_the_temperature(tmp_path: Path) -> None:
    answer = Classes(labels=("n", "p"), temperature=2.0)
    about = About(name="m", task="tabular-classification", words=TableWords(features=("x",)), answer=answer)
    manifest = bundle.save(tmp_path / "b", nn.Linear(1, 2), inputs=torch.ones(2, 1), about=about)
    made = Codec(manifest, "1", Limits())
    y = torch.tensor([[0.0, 3.0]])

    said = json.loads(made.encode((y.numpy(),), made.decode(body([1]), "application/json")))["predictions"][0]

    assert said["score"] == pytest.approx(torch.softmax(y / 2, 1)[0, 1].item())
