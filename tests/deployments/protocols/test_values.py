"""What a caller sends keeps its meaning, or is refused with row and name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deployments.errors import ClientError, InvalidType
from deployments.protocols.oip.codec import OipCodec
from deployments.protocols.predict.codec import PredictCodec
from deployments.settings import Limits
from tests.small_bundles import FEATURES
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
from training.data.input_layers import EncodeColumns
from training.schema import ClassOutput, Feature, TableInput

LARGE = 2**24 + 1


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> PredictCodec:
    """A model of a number, a category and a truth value, of which each may be missing."""
    features = (
        Feature(name="n"),
        Feature(name="c", categories=("1", "caf\u00e9", "x", "0.1")),
        Feature(name="b", categories=("false", "true")),
    )
    info = ModelInfo(
        name="mixed",
        task="tabular-classification",
        input_schema=TableInput(features=features, allow_missing=True),
        output_schema=ClassOutput(labels=("no", "yes")),
    )
    rows = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
    encode = EncodeColumns.fit(rows, [None, 4, 2], impute_missing=True)
    folder = tmp_path_factory.mktemp("mixed") / "b"
    save_bundle(folder, nn.Sequential(encode, nn.Linear(encode.out_features, 2)), inputs=rows, info=info)
    return PredictCodec(verify_bundle(folder), "1", Limits())


def decode(codec: PredictCodec, row: Any) -> list[float]:
    body = json.dumps({"inputs": [row]}).encode()
    rows = codec.decode_request(body, "application/json").rows
    return [float(value) for value in rows[0]]


def test_a_whole_number_that_the_net_does_not_hold_is_refused_by_name(table_bundle: Path) -> None:
    codec = PredictCodec(verify_bundle(table_bundle), "1", Limits())
    row = dict.fromkeys(FEATURES, 1)

    for value in (LARGE, -LARGE, 1_700_000_001):
        with pytest.raises(InvalidType, match=rf"row 0: 'width': {value} would become .* in FP32"):
            decode(codec, row | {"width": value})
    assert decode(codec, row | {"width": LARGE - 1})[1] == LARGE - 1
    # A measured value is rounded, as every fraction is.
    assert decode(codec, row | {"width": LARGE + 0.0})[1] == 2**24
    assert decode(codec, row | {"width": 0.1})[1] == np.float32(0.1)


def test_so_is_it_where_values_may_be_missing(mixed: PredictCodec) -> None:
    with pytest.raises(InvalidType, match=rf"row 0: 'n': {LARGE} would become"):
        decode(mixed, {"n": LARGE})


@pytest.mark.parametrize("data", [[1, 2, 3, LARGE], [[1, 2, 3, LARGE]], [1.5, 2, 3, LARGE]])
def test_infer_refuses_it_too(table_bundle: Path, data: list[Any]) -> None:
    codec = OipCodec(verify_bundle(table_bundle), "1", Limits(max_rows=10))
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": data}

    with pytest.raises(InvalidType, match=rf"{LARGE} would become {LARGE - 1} in FP32"):
        codec.decode_request(json.dumps({"inputs": [tensor]}).encode())
    tensor["data"] = [1, 2.5, 3, LARGE - 1]
    rows = codec.decode_request(json.dumps({"inputs": [tensor]}).encode()).rows
    assert np.array_equal(rows, np.array([[1, 2.5, 3, LARGE - 1]], np.float32))


@pytest.mark.parametrize(
    ("category", "index"),
    [
        ("1", 0),
        (1, 0),
        (1.0, 0),
        ("1.0", 0),
        ("caf\u00e9", 1),
        ("cafe\u0301", 1),
        (" x ", 2),
        (0.1, 3),
        # A float32 in a caller's float64.
        (0.10000000149011612, 3),
        (None, None),
        ("NA", None),
        ("", None),
    ],
)
def test_a_category_is_spelled_as_training_spells_it(mixed: PredictCodec, category: Any, index: int | None) -> None:
    value = decode(mixed, {"n": 0, "c": category, "b": "true"})[1]

    assert np.isnan(value) if index is None else value == index


@pytest.mark.parametrize(("truth", "index"), [(True, 1), (False, 0), ("True", 1), ("FALSE", 0), ("true", 1)])
def test_a_truth_value_may_come_as_one(mixed: PredictCodec, truth: Any, index: int) -> None:
    assert decode(mixed, {"n": 0, "c": "x", "b": truth})[2] == index


@pytest.mark.parametrize("category", ["X", "none", 2, 1.5, 0.10000001, True, ["x"], {"x": 1}, "xx"])
def test_another_category_is_refused_by_row_and_name(mixed: PredictCodec, category: Any) -> None:
    with pytest.raises(ClientError, match=r"row 0: 'c' is .*; send one of \['1', 'café', 'x', '0.1'\]"):
        decode(mixed, {"n": 0, "c": category, "b": "true"})
