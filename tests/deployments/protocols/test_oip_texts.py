"""Texts over the Open Inference Protocol: a model that reads texts takes them in the place of tokens."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

from deployments import errors
from deployments.control.openapi import model_paths
from deployments.models.replica import ServedModel
from deployments.protocols.oip import binary
from deployments.specs.model import Deployment, Endpoint
from tests.deployments.protocols.test_predict_tasks import TEXTS, TOKENISER, WORDS
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, SpanOutput, TextInput
from training.zoo.nets.recurrent import recurrent_classifier
from training.zoo.nets.tagger import tagger


def model_of(folder: Path, net: nn.Module, about: ModelInfo, rows: list[list[int]], **more: Any) -> ServedModel:
    manifest = save_bundle(folder / "bundle", net, inputs=torch.tensor(rows), info=about, **more)
    return ServedModel(Endpoint(name="m", version=1, digest=manifest.digest, uri=str(folder / "bundle")), folder)


@pytest.fixture
def reviews(tmp_path: Path) -> ServedModel:
    net = recurrent_classifier(vocabulary=len(TOKENISER), classes=2, cell="gru", dim=4, width=4)
    about = ModelInfo(
        name="m",
        task="text-classification",
        input_schema=TextInput(max_tokens=8),
        output_schema=ClassOutput(labels=("n", "p")),
    )
    rows = [TOKENISER.encode(TEXTS[0]).ids, [4, 5, 6, 0, 0]]
    return model_of(tmp_path, net, about, rows, tokeniser=TOKENISER, example=TEXTS[0])


def request(**changes: Any) -> bytes:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def test_texts_become_the_tokens_that_the_words_of_the_task_make_of_them(reviews: ServedModel) -> None:
    wanted = reviews.predict_codec.decode(json.dumps({"inputs": TEXTS}).encode(), "application/json").rows
    content = binary.write_texts([text.encode() for text in TEXTS])
    tensor = {"name": "input", "datatype": "BYTES", "shape": [3, 1], "parameters": {"binary_data_size": len(content)}}
    header = json.dumps({"inputs": [tensor]}).encode()

    assert wanted is not None
    for read in (
        reviews.oip_codec.decode(request()).rows,
        reviews.oip_codec.decode(header + content, len(header)).rows,
    ):
        assert [row.tolist() for row in read] == [row.tolist() for row in wanted]


def test_tokens_are_taken_still_and_judged_in_either_form(reviews: ServedModel) -> None:
    tokens = np.array([[4, 5, 6]])
    said = {"name": "input", "datatype": "INT64", "shape": [1, 3]}
    as_json = json.dumps({"inputs": [said | {"data": [4, 5, 6]}]}).encode()
    header = json.dumps({"inputs": [said | {"parameters": {"binary_data_size": 24}}]}).encode()

    assert reviews.oip_codec.decode(as_json).rows.tolist() == tokens.tolist()
    assert reviews.oip_codec.decode(header + tokens.tobytes(), len(header)).rows.tolist() == tokens.tolist()
    with pytest.raises(errors.InvalidType, match="token that is not"):
        reviews.oip_codec.decode(header + (tokens + 10**9).tobytes(), len(header))
    with pytest.raises(errors.InvalidType, match="takes INT64, or texts as BYTES"):
        reviews.oip_codec.decode(request(datatype="FP32"))


def test_a_marked_text_is_no_bytes(tmp_path: Path) -> None:
    net = tagger(vocabulary=len(WORDS), classes=5, dim=4, width=4)
    words = TextInput(max_tokens=16, has_predicate=True)
    about = ModelInfo(
        name="m", task="token-classification", input_schema=words, output_schema=SpanOutput(labels=("A", "B"))
    )
    example = {"text": "She gave him a book .", "predicate": [4, 8]}
    rows = [WORDS.encode_marked("She gave him a book .", 4, 8).ids] * 2
    model = model_of(tmp_path, net, about, rows, tokeniser=WORDS, example=example)

    with pytest.raises(errors.InvalidType, match=r"BYTES; this model takes INT64$"):
        model.oip_codec.decode(request())


def test_the_schema_knows_both_forms_and_the_parameters(reviews: ServedModel) -> None:
    paths = model_paths(Deployment(endpoint=reviews.endpoint), reviews.manifest, reviews.example)
    content = paths["/v2/models/m/infer"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]

    assert content["application/octet-stream"]["schema"]["format"] == "binary"
    jsonschema.validate(content["application/json"]["example"], schema)
    jsonschema.validate(json.loads(request()), schema)
    said = json.loads(request()) | {"parameters": {"timeout": 5, "sequence_id": "s"}}
    jsonschema.validate(said, schema)
    for parameters in ({"gain": 1}, {"timeout": -1}, {"binary_data_output": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(said | {"parameters": parameters}, schema)
