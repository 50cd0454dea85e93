"""Texts in the Open Inference Protocol: a text model takes them in place of tokens."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

from deployments import errors
from deployments.control.operations import build_model_paths
from deployments.models.served_model import ServedModel
from deployments.protocols.oip import binary
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from tests.deployments.protocols.test_predict_tasks import CHARACTERS, TEXTS, WORDS
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, SpanOutput, TextInput
from training.zoo.nets.recurrent import rnn_text_classifier
from training.zoo.nets.tagger import tagger


def serve(folder: Path, net: nn.Module, info: ModelInfo, rows: list[list[int]], **files: Any) -> ServedModel:
    manifest = save_bundle(folder / "bundle", net, inputs=torch.tensor(rows), info=info, **files)
    return ServedModel(ModelEndpoint(name="m", version=1, digest=manifest.digest, uri=str(folder / "bundle")), folder)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    net = rnn_text_classifier(
        vocab_size=len(CHARACTERS), num_classes=2, cell_type="gru", embedding_dim=4, hidden_size=4
    )
    info = ModelInfo(
        name="m",
        task="text-classification",
        input_schema=TextInput(max_tokens=8),
        output_schema=ClassOutput(labels=("n", "p")),
    )
    rows = [CHARACTERS.encode(TEXTS[0]).ids, [4, 5, 6, 0, 0]]
    return serve(tmp_path_factory.mktemp("reviews"), net, info, rows, tokenizer=CHARACTERS, example=TEXTS[0])


def encode_request(**changes: Any) -> bytes:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def test_texts_become_the_same_tokens_as_in_predict(reviews: ServedModel) -> None:
    rows = reviews.predict_codec.decode_request(json.dumps({"inputs": TEXTS}).encode(), "application/json").rows
    content = binary.encode_texts([text.encode() for text in TEXTS])
    tensor = {"name": "input", "datatype": "BYTES", "shape": [3, 1], "parameters": {"binary_data_size": len(content)}}
    header = json.dumps({"inputs": [tensor]}).encode()

    assert rows is not None
    for decoded in (
        reviews.oip_codec.decode_request(encode_request()).rows,
        reviews.oip_codec.decode_request(header + content, len(header)).rows,
    ):
        assert [row.tolist() for row in decoded] == [row.tolist() for row in rows]


def test_tokens_are_accepted_too_and_checked_in_either_form(reviews: ServedModel) -> None:
    tokens = np.array([[4, 5, 6]])
    tensor = {"name": "input", "datatype": "INT64", "shape": [1, 3]}
    as_json = json.dumps({"inputs": [tensor | {"data": [4, 5, 6]}]}).encode()
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 24}}]}).encode()

    assert reviews.oip_codec.decode_request(as_json).rows.tolist() == tokens.tolist()
    assert reviews.oip_codec.decode_request(header + tokens.tobytes(), len(header)).rows.tolist() == tokens.tolist()
    with pytest.raises(errors.InvalidType, match="token outside"):
        reviews.oip_codec.decode_request(header + (tokens + 10**9).tobytes(), len(header))
    with pytest.raises(errors.InvalidType, match="takes INT64, or texts as BYTES"):
        reviews.oip_codec.decode_request(encode_request(datatype="FP32"))


def test_a_text_with_a_predicate_cannot_be_bytes(tmp_path: Path) -> None:
    net = tagger(vocab_size=len(WORDS), num_classes=5, embedding_dim=4, hidden_size=4)
    schema = TextInput(max_tokens=16, has_predicate=True)
    info = ModelInfo(
        name="m", task="token-classification", input_schema=schema, output_schema=SpanOutput(labels=("A", "B"))
    )
    example = {"text": "She gave him a book .", "predicate": [4, 8]}
    rows = [WORDS.encode_with_predicate("She gave him a book .", 4, 8).ids] * 2
    model = serve(tmp_path, net, info, rows, tokenizer=WORDS, example=example)

    with pytest.raises(errors.InvalidType, match=r"BYTES; this model takes INT64$"):
        model.oip_codec.decode_request(encode_request())


def test_the_openapi_schema_has_both_forms_and_the_parameters(reviews: ServedModel) -> None:
    paths = build_model_paths(ModelDeployment(endpoint=reviews.endpoint), reviews.manifest, reviews.example)
    content = paths["/v2/models/m/infer"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]

    assert content["application/octet-stream"]["schema"]["format"] == "binary"
    jsonschema.validate(content["application/json"]["example"], schema)
    jsonschema.validate(json.loads(encode_request()), schema)
    request = json.loads(encode_request()) | {"parameters": {"timeout": 5, "sequence_id": "s"}}
    jsonschema.validate(request, schema)
    for parameters in ({"gain": 1}, {"timeout": -1}, {"binary_data_output": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(request | {"parameters": parameters}, schema)
