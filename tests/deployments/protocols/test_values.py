"""What a caller sends keeps its meaning, or is refused with row and name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deployments.errors import ClientError, InvalidType, MalformedBody, NotFinite
from deployments.protocols.oip.codec import OipCodec
from deployments.protocols.predict.codec import PredictCodec
from deployments.settings import Limits
from tests.small_bundles import FEATURES
from training.bundle.datatypes import Datatype
from training.bundle.manifest import Manifest, ModelInfo, TensorSpec
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
from training.data.input_layers import EncodeColumns
from training.errors import UserError
from training.schema import ClassOutput, Feature, TableInput

LARGE = 2**24 + 1


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> PredictCodec:
    """A model of a number, a category and a truth value, of which each may be missing."""
    features = (
        Feature(name="n"),
        Feature(name="c", categories=("1", "caf\u00e9", "x")),
        Feature(name="b", categories=("false", "true")),
    )
    info = ModelInfo(
        name="mixed",
        task="tabular-classification",
        input_schema=TableInput(features=features, allow_missing=True),
        output_schema=ClassOutput(labels=("no", "yes")),
    )
    rows = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
    encode = EncodeColumns.fit(rows, [None, 3, 2], impute_missing=True)
    folder = tmp_path_factory.mktemp("mixed") / "b"
    save_bundle(folder, nn.Sequential(encode, nn.Linear(encode.out_features, 2)), inputs=rows, info=info)
    return PredictCodec(verify_bundle(folder), "1", Limits())


def as_type(manifest: Manifest, datatype: Datatype, features: Any = None, *, allow_missing: bool = False) -> Manifest:
    """A table's manifest with another type of its rows, and other features."""
    spec = manifest.inputs[0]
    schema = TableInput(features=features or FEATURES, allow_missing=allow_missing)
    shape = (-1, len(schema.features))
    inputs = (TensorSpec(name=spec.name, datatype=datatype, shape=shape),)
    return manifest.model_copy(update={"inputs": inputs, "input_schema": schema})


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
    with pytest.raises(InvalidType, match=rf"'width': {LARGE} would become"):
        decode(codec, row | {"width": float(LARGE)})
    # A measured value is rounded, as every fraction is.
    assert decode(codec, row | {"width": LARGE + 0.5})[1] == 2**24 + 2
    assert decode(codec, row | {"width": 0.1})[1] == np.float32(0.1)


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_a_number_out_of_the_types_range_is_refused_by_name(
    table_bundle: Path, mixed: PredictCodec, value: float
) -> None:
    codec = PredictCodec(verify_bundle(table_bundle), "1", Limits())

    with pytest.raises(NotFinite, match=r"row 0: 'width': a value is not finite in FP32"):
        decode(codec, dict.fromkeys(FEATURES, 1) | {"width": value})
    with pytest.raises(NotFinite, match=r"row 0: 'n': a value is not finite"):
        decode(mixed, {"n": value})


def test_so_is_it_where_values_may_be_missing(mixed: PredictCodec) -> None:
    with pytest.raises(InvalidType, match=rf"row 0: 'n': {LARGE} would become"):
        decode(mixed, {"n": LARGE})


@pytest.mark.parametrize("data", [[1, 2, 3, LARGE], [[1, 2, 3, LARGE]], [1.5, 2, 3, LARGE], [1, 2, 3, LARGE + 0.0]])
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


@pytest.mark.parametrize("category", ["X", "none", 2, 1.5, True, ["x"], {"x": 1}, "xx"])
def test_another_category_is_refused_by_row_and_name(mixed: PredictCodec, category: Any) -> None:
    with pytest.raises(ClientError, match=r"row 0: 'c' is .*; send one of \['1', 'café', 'x'\]"):
        decode(mixed, {"n": 0, "c": category, "b": "true"})


NUMBER_AND_CATEGORY = (Feature(name="t"), Feature(name="c", categories=("a", "b")))


@pytest.mark.parametrize("datatype", ["FP64", "INT64"])
def test_a_table_with_categories_keeps_the_type_of_its_numbers(table_bundle: Path, datatype: Datatype) -> None:
    codec = PredictCodec(as_type(verify_bundle(table_bundle), datatype, NUMBER_AND_CATEGORY), "1", Limits())
    body = json.dumps({"inputs": [{"t": t, "c": "b"} for t in (1_700_000_001, 2**53 - 1)]}).encode()

    rows = codec.decode_request(body, "application/json").rows

    assert np.asarray(rows).dtype == datatype.replace("FP", "float").replace("INT", "int")
    assert np.asarray(rows).tolist() == [[1_700_000_001, 1], [2**53 - 1, 1]]


def test_a_table_of_float64_with_missing_values_keeps_seconds(table_bundle: Path) -> None:
    manifest = as_type(verify_bundle(table_bundle), "FP64", ("t", "u"), allow_missing=True)
    codec = PredictCodec(manifest, "1", Limits())

    assert np.array_equal(decode(codec, {"t": 1_700_000_001}), [1_700_000_001, np.nan], equal_nan=True)
    with pytest.raises(MalformedBody, match="Number out of range"):
        codec.decode_request(b'{"inputs":[[1,1e400]]}', "application/json")


def test_integers_take_no_fraction_and_have_nothing_missing(table_bundle: Path) -> None:
    manifest = as_type(verify_bundle(table_bundle), "INT64", NUMBER_AND_CATEGORY, allow_missing=True)
    codec = PredictCodec(manifest, "1", Limits())

    for value in (1.5, 1.0, True, "1"):
        with pytest.raises(InvalidType, match=r"row 0: 't' is .*; send an integer"):
            decode(codec, {"t": value, "c": "a"})
    for row in ({"t": None, "c": "a"}, {"t": 1, "c": None}, {"t": 1, "c": "NA"}):
        with pytest.raises(InvalidType, match=r"row 0: '\w' is missing, which INT64 cannot express"):
            decode(codec, row)
    assert decode(codec, {"t": 2**40 + 1, "c": "b"}) == [2**40 + 1, 1]


@pytest.mark.parametrize(
    ("datatype", "value", "near"),
    [("BF16", 257, 258), ("FP16", 2049, 2048), ("FP32", LARGE, 2**24), ("FP64", 2**53 + 1, 2**53)],
)
def test_each_type_holds_its_own_whole_numbers(table_bundle: Path, datatype: Datatype, value: int, near: int) -> None:
    manifest = as_type(verify_bundle(table_bundle), datatype)
    message = rf"{value} would become {near} in {datatype}"

    with pytest.raises(InvalidType, match=rf"row 0: 'width': {message}"):
        decode(PredictCodec(manifest, "1", Limits()), [0, value, 0, 0])
    with pytest.raises(InvalidType, match=message):
        decode_tensor(manifest, [0, value, 0, 0])
    assert decode(PredictCodec(manifest, "1", Limits()), [0, value - 1, 0.1, -value + 1])[1] == value - 1
    assert decode_tensor(manifest, [0, value - 1, 0.1, -value + 1])[0][1] == value - 1


def decode_tensor(manifest: Manifest, data: list[Any]) -> Any:
    tensor = {"name": "input", "shape": [1, 4], "datatype": manifest.inputs[0].datatype, "data": data}
    return OipCodec(manifest, "1", Limits()).decode_request(json.dumps({"inputs": [tensor]}).encode()).rows


def test_a_table_is_not_saved_in_a_type_that_does_not_hold_its_rows(tmp_path: Path) -> None:
    many = (Feature(name="t"), Feature(name="c", categories=tuple(map(str, range(300)))))
    for dtype, schema, message in (
        (torch.bfloat16, TableInput(features=many), "'c' has 300 categories, whose indexes torch.bfloat16"),
        (torch.int64, TableInput(features=NUMBER_AND_CATEGORY, allow_missing=True), "has no NaN for a missing value"),
    ):
        info = ModelInfo(
            name="x",
            task="tabular-classification",
            input_schema=schema,
            output_schema=ClassOutput(labels=("no", "yes")),
        )
        with pytest.raises(UserError, match=message):
            save_bundle(tmp_path / "b", nn.Linear(2, 2), inputs=torch.ones(2, 2, dtype=dtype), info=info)
