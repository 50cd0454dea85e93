"""Rows of a Dataset keep their order and meaning whatever library they are of, or are refused by row and name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from training.data.cleaning import clean_dataset
from training.data.dataset import Dataset, load_dataset
from training.data.preprocessing import prepare_dataset
from training.errors import UserError
from training.recipe.spec import Cleaning, Data, Net, Recipe
from training.schema import Feature, ImageInput, InputSchema, SeriesInput, TableInput

COUNT = 60
ONE = TableInput(features=("a",))
SERIES = SeriesInput(features=("v",), max_time_steps=5)
NUMBERS = torch.arange(float(COUNT))[:, None]
CLASSES = torch.arange(COUNT) % 2
TEXTS = [f"text {index}" for index in range(COUNT)]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    def load(inputs: Any, targets: Any = CLASSES, schema: InputSchema | None = None, **attributes: Any) -> Dataset:
        attributes = {"labels": ("no", "yes"), "input_schema": schema} | attributes
        dataset = Dataset(inputs=inputs, targets=targets, **attributes)
        monkeypatch.setattr("training.data.dataset.import_path", lambda path: lambda: dataset)
        return load_dataset(Data(source="a:b"))

    return load


def shuffled(values: Any) -> pd.Series:
    """A column whose places are not its labels."""
    return pd.Series(values, index=range(len(values) - 1, -1, -1))


@pytest.mark.parametrize(
    "convert",
    [
        *(shuffled, pl.Series, np.array, lambda v: np.array(v, object)),
        *(pa.array, lambda v: pa.chunked_array([v[:9], v[9:]]), tuple),
    ],
    ids=["pandas", "polars", "numpy", "objects", "Arrow", "Arrow chunks", "tuple"],
)
def test_texts_and_classes_of_any_library_are_taken_by_position(
    load: Callable[..., Dataset], convert: Callable[[Any], Any]
) -> None:
    dataset = load(convert(TEXTS), convert(CLASSES.tolist()))

    assert dataset.inputs == TEXTS
    assert torch.equal(dataset.targets, CLASSES)
    assert load(TEXTS).fingerprint() == dataset.fingerprint()


def test_a_shuffled_series_of_numbers_is_taken_by_position(load: Callable[..., Dataset]) -> None:
    numbers = np.arange(COUNT) / 4

    dataset = load(NUMBERS.numpy(), shuffled(numbers), ONE, labels=("price",))

    assert torch.equal(dataset.inputs, NUMBERS)
    assert dataset.targets.tolist() == numbers.tolist()
    assert dataset.targets.dtype == torch.float32


def test_arrays_of_other_types_keep_their_values(load: Callable[..., Dataset]) -> None:
    values = np.array([[0], [65535]] * (COUNT // 2))

    for dtype in (np.uint16, ">i4", np.uint64, ">f8"):
        assert load(values.astype(dtype), schema=ONE).inputs.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        (pd.DataFrame({"a": range(COUNT)}), "the inputs are a DataFrame; return a tensor"),
        (pl.DataFrame({"a": range(COUNT)}), "the inputs are a DataFrame"),
        (pa.table({"a": range(COUNT)}), "the inputs are a Table"),
        ({"a": 1}, "the inputs are a dict"),
        ((text for text in TEXTS), "the inputs are a generator"),
        ("text", "the inputs are a str"),
        ([*TEXTS[1:], 1], r"row 59 is 1 \(int\); make every row a text"),
        ([*TEXTS[1:], b"x"], r"row 59 is b'x' \(bytes\); make every row a text"),
        ([1.5, *TEXTS[1:]], r"row 0 is 1.5 \(float\); make every row a text, a record or a tensor"),
        ([*TEXTS[1:], "a\ud800"], r"row 59 has U\+D800, half a character"),
        ([{"text": "a\udc00"}] * COUNT, r"row 0 has U\+DC00"),
        ([{"text": b"a"}] * COUNT, "row 0 cannot be JSON"),
        (pd.Series(pd.date_range("2026-01-01", periods=COUNT)), r"row 0 is Timestamp\(.*make every row a text"),
        (NUMBERS.to(torch.complex64), "inputs are torch.complex64"),
        (NUMBERS.expand(-1, 3), r"inputs have shape \(60, 3\); make it \(N, 1\)"),
    ],
)
def test_rows_that_are_nothing_a_net_takes_are_refused(load: Callable[..., Dataset], inputs: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load(inputs, schema=ONE)


@pytest.mark.parametrize("index", [-1, 7.0, 2, 0.5])
def test_a_number_that_is_no_category_is_refused(load: Callable[..., Dataset], index: float) -> None:
    schema = TableInput(features=("a", Feature(name="color", categories=("red", "blue"))))
    inputs = torch.cat([NUMBERS, torch.zeros(COUNT, 1)], 1)
    inputs[3, 1] = index

    with pytest.raises(UserError, match=f"row 3 has {index:g} for 'color'; give the index of its category, 0 to 1"):
        load(inputs, schema=schema)


@pytest.mark.parametrize(
    ("test_index", "problem"),
    [
        (torch.tensor([3, -1]), "test_index has -1; rows are numbered from 0 to 59"),
        (np.array([60]), "test_index has 60"),
        ([5, 3, 5], "test_index has row 5 twice"),
        (torch.arange(COUNT) < 9, "test_index is torch.bool; make it int64"),
        (range(3), None),
    ],
)
def test_test_rows_are_rows_of_the_data_set(load: Callable[..., Dataset], test_index: Any, problem: str | None) -> None:
    if problem is None:
        assert load(NUMBERS, schema=ONE, test_index=test_index).test_index.tolist() == [0, 1, 2]  # type: ignore[union-attr]
        return
    with pytest.raises(UserError, match=problem):
        load(NUMBERS, schema=ONE, test_index=test_index)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_images_of_another_depth_or_size_are_refused(load: Callable[..., Dataset], dtype: torch.dtype) -> None:
    schema = ImageInput(height=4, width=4, mode="L")

    with pytest.raises(UserError, match=r"make images uint8 \(0 to 255\) of shape \(N, 1, 4, 4\)"):
        load(torch.ones(COUNT, 1, 4, 4, dtype=dtype), schema=schema)
    with pytest.raises(UserError, match="make images uint8"):
        load(torch.ones(COUNT, 1, 8, 8, dtype=torch.uint8), schema=schema)


def test_series_of_different_types_are_refused(load: Callable[..., Dataset]) -> None:
    rows = [torch.ones(4, 1)] * (COUNT - 1) + [torch.ones(4, 1, dtype=torch.float64)]

    with pytest.raises(UserError, match=r"row 59 is torch\.float64; make all rows torch\.float32"):
        load(rows, schema=SERIES)
    with pytest.raises(UserError, match=r"row 0 has shape \(4, 2\); make it \(T, 1\)"):
        load([torch.ones(4, 2)] * COUNT, schema=SERIES)


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("missing", ["refuse", "mean"])
def test_a_series_is_not_imputed_in_whatever_form_it_comes(as_list: bool, missing: str) -> None:
    inputs = torch.zeros(COUNT, 5, 1)
    inputs[3, 2] = float("nan")
    dataset = Dataset(list(inputs) if as_list else inputs, CLASSES, ("no", "yes"), SERIES)

    with pytest.raises(UserError, match=r"row 3 has a value that is missing; .* to drop \(the row\)$"):
        clean_dataset(dataset, Cleaning.model_validate({"missing": missing}))


@pytest.mark.parametrize("missing", ["refuse", "drop", "mean"])
@pytest.mark.parametrize("infinity", [float("inf"), -float("inf")])
def test_infinity_is_no_missing_value(missing: str, infinity: float) -> None:
    inputs = NUMBERS.clone()
    inputs[3] = infinity
    cleaning = Cleaning.model_validate({"missing": missing})

    with pytest.raises(UserError, match="row 3 has a value for 'a' that is not finite"):
        clean_dataset(Dataset(inputs, CLASSES, ("no", "yes"), ONE), cleaning)
    with pytest.raises(UserError, match="row 3 has a target that is not finite"):
        clean_dataset(Dataset(NUMBERS, inputs.flatten(), ("price",), ONE), cleaning)
    with pytest.raises(UserError, match="row 3 has a value that is not finite"):
        clean_dataset(Dataset(list(inputs[:, None]), CLASSES, ("no", "yes"), SERIES), cleaning)


class Rows:
    """The object with three methods."""

    def __init__(self, inputs: Any, targets: Any, **info: Any) -> None:
        self.inputs, self.targets, self.attributes = inputs, targets, info
        self.columns = ["a"]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], self.targets[index]

    def info(self) -> dict[str, Any]:
        return {"labels": ("no", "yes"), "input_schema": ONE} | self.attributes


def prepare(monkeypatch: pytest.MonkeyPatch, rows: Any, missing: str = "refuse") -> Dataset:
    monkeypatch.setattr("training.data.dataset.import_path", lambda path: lambda: rows)
    recipe = Recipe(
        name="r",
        task="tabular-classification",
        data=Data(source="a:b"),
        net=Net(source="training.zoo.nets.mlp:mlp"),
        clean=Cleaning.model_validate({"missing": missing}),
    )
    return prepare_dataset(recipe)[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda i: 1_700_000_001.0 + 2 * i,
        lambda i: 2_460_000.5 + i / 86400,
        lambda i: 1_700_000_001 + i if i else 1.5,
        lambda i: np.float64(1_700_000_001 + 2 * i),
        lambda i: np.float64(1e39),
    ],
    ids=["seconds", "Julian dates", "integers and a fraction", "numpy", "too large"],
)
@pytest.mark.parametrize("as_object", [True, False])
def test_targets_that_float32_does_not_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[int], Any], as_object: bool
) -> None:
    targets = [make(index) for index in range(COUNT)]
    rows = Rows(NUMBERS, targets) if as_object else Dataset(NUMBERS, np.array(targets), ("time",), ONE)

    with pytest.raises(UserError, match=r"row \d+ of .*the targets: .* in float32|out of the range of float32"):
        prepare(monkeypatch, rows)


def test_numpy_rows_of_the_object_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepare(monkeypatch, Rows(NUMBERS.numpy(), CLASSES.numpy()))

    assert torch.equal(dataset.inputs, NUMBERS)
    assert torch.equal(dataset.targets, CLASSES)


def test_a_frame_is_no_object_with_three_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"returned a DataFrame; return a training\.Dataset"):
        prepare(monkeypatch, pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize("missing_value", [None, float("nan"), pd.NA])
def test_a_class_that_is_missing_is_refused_or_dropped(monkeypatch: pytest.MonkeyPatch, missing_value: Any) -> None:
    rows = Rows(NUMBERS, [missing_value, *CLASSES.tolist()[1:]])

    with pytest.raises(UserError, match="row 0 has a target that is missing"):
        prepare(monkeypatch, rows)
    dataset = prepare(monkeypatch, rows, missing="drop")

    assert torch.equal(dataset.targets, CLASSES[1:])
    assert dataset.dropped_rows == {"missing": 1}


@pytest.mark.parametrize("labels", [np.array(["no", "yes"]), pd.Index(["no", "yes"]), ["no", "yes"]])
def test_labels_of_any_library_are_taken(load: Callable[..., Dataset], labels: Any) -> None:
    assert load(NUMBERS, schema=ONE, labels=labels).labels == ("no", "yes")


@pytest.mark.parametrize("labels", ["ny", {"no", "yes"}])
def test_labels_without_an_order_are_refused(load: Callable[..., Dataset], labels: Any) -> None:
    with pytest.raises(UserError, match=r"the labels are a (str|set); return a tensor, an array or a list"):
        load(NUMBERS, schema=ONE, labels=labels)


def test_classes_are_no_names_and_no_fractions(load: Callable[..., Dataset]) -> None:
    with pytest.raises(UserError, match=r"the target of row 0 is 'no' \(str\); give a class as its index"):
        load(NUMBERS, ["no", "yes"] * (COUNT // 2), ONE)
    with pytest.raises(UserError, match="targets are float32, but there are 2 labels"):
        load(NUMBERS, CLASSES.float(), ONE)
