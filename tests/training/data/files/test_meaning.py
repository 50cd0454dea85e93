"""Values of files keep what they mean, or are refused with file, row and column; no cluster."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.training.data.files.small_files import FORMATS, make_animals, make_recipe, scan_locally, write_files
from training.data.files.scan import FileScan
from training.errors import UserError
from training.recipe.spec import Cleaning, Files
from training.schema import TableInput


def scan(frame: pd.DataFrame, folder: Path, format_: str, missing: str = "refuse", **files: Any) -> FileScan:
    path = write_files(frame, folder / "rows", format_, num_files=2)
    cleaning = Cleaning.model_validate({"missing": missing})
    return scan_locally(make_recipe(Files(path=path, format=format_, target="kind", **files), clean=cleaning))


def list_categories(result: FileScan, feature: str) -> tuple[str, ...] | None:
    schema = result.dataset_attributes["input_schema"]
    assert isinstance(schema, TableInput)
    return next(each.categories for each in schema.features if each.name == feature)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "make",
    [
        lambda count: 1_700_000_001 + 2 * np.arange(count),
        lambda count: (1_700_000_001 + 2 * np.arange(count)) * 1000,
        lambda count: 2**24 + 1 + np.arange(count),
        lambda count: -(2**53) - 1 - np.arange(count),
        lambda count: (1_700_000_001 + 2 * np.arange(count)).astype(float),
        lambda count: 1_700_000_000.5 + np.arange(count),
    ],
    ids=["seconds", "milliseconds", "just above 2**24", "beyond 2**53", "seconds as floats", "half seconds"],
)
def test_numbers_that_float32_would_make_equal_are_refused(
    tmp_path: Path, format_: str, make: Callable[[int], Any]
) -> None:
    frame = make_animals(400)
    frame["time"] = make(400)

    with pytest.raises(UserError, match=r"part-\d\.\w+, row \d+, column 'time': -?\d+.* would become .* in float32"):
        scan(frame, tmp_path, format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_numbers_that_rounding_hardly_changes_are_taken(tmp_path: Path, format_: str) -> None:
    rng = np.random.default_rng(0)
    frame = make_animals(400)
    frame["revenue"] = (rng.lognormal(23, 1, 400)).round(2)
    frame["latitude"] = (52.5 + rng.normal(0, 0.1, 400)).round(7)
    frame["count"] = rng.integers(0, 2**24, 400)
    frame["even"] = rng.integers(0, 2**24, 400) * 1024

    assert scan(frame, tmp_path, format_).row_counts["train"] > 200


@pytest.mark.parametrize("factor", [1.0, 1.5], ids=["whole numbers", "fractions"])
def test_a_number_out_of_the_range_of_float32_is_refused_and_not_missing(tmp_path: Path, factor: float) -> None:
    frame = make_animals(400)
    frame["size"] = [1e300 if row == 3 else factor * row for row in range(400)]

    with pytest.raises(UserError, match=r"column 'size': 1e\+300 is out of the range of float32.*; subtract"):
        scan(frame, tmp_path, "parquet", missing="mean")


def test_whole_numbers_with_some_missing_are_refused_as_the_others(tmp_path: Path) -> None:
    frame = make_animals(400)
    frame["time"] = pd.array([None if i == 3 else 1_700_000_001 + 2 * i for i in range(400)], dtype="Int64")

    with pytest.raises(UserError, match="column 'time': 1700000001 would become 1700000000"):
        scan(frame, tmp_path, "parquet", missing="mean")


@pytest.mark.parametrize("format_", FORMATS)
def test_a_label_that_is_missing_is_no_class(tmp_path: Path, format_: str) -> None:
    frame = make_animals(400)
    frame["kind"] = np.where(frame.legs > 4, 1.0, 2.0)
    frame.loc[7, "kind"] = np.nan

    with pytest.raises(UserError, match=r"column 'kind': .* is missing"):
        scan(frame, tmp_path, format_)
    frame.to_parquet(tmp_path / "x.parquet")
    dropped = scan(frame, tmp_path / "2", format_, missing="drop") if (tmp_path / "2").mkdir() is None else None

    assert dropped is not None
    assert dropped.dataset_attributes["labels"] == ("1", "2")
    assert dropped.dataset_attributes["dropped_rows"] == {"missing": 1}


@pytest.mark.parametrize("text", ["nan", "NaN", "NA", "null", "", "  "])
def test_the_words_for_a_missing_value_are_no_class_and_no_category(tmp_path: Path, text: str) -> None:
    frame = make_animals(400)
    frame.loc[3, "color"] = text

    with pytest.raises(UserError, match="column 'color'"):
        scan(frame, tmp_path, "parquet")
    frame = make_animals(400)
    frame.loc[3, "kind"] = text
    dropped = scan_locally(
        make_recipe(
            Files(path=write_files(frame, tmp_path / "b", "csv"), format="csv", target="kind"),
            clean=Cleaning(missing="drop"),
        )
    )

    assert dropped.dataset_attributes["labels"] == ("insect", "mammal")


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_one_value_has_one_spelling(tmp_path: Path, format_: str) -> None:
    frame = make_animals(400)
    rng = np.random.default_rng(0)
    # "é" as one character and as two, and with spaces around.
    frame["color"] = rng.choice(["caf\u00e9", "cafe\u0301", " caf\u00e9 ", "tea"], 400)
    frame["is_big"] = rng.choice([True, False], 400)
    frame["kind"] = frame["kind"].map({"insect": 1.0, "mammal": 2.0})

    result = scan(frame, tmp_path, format_)

    assert list_categories(result, "color") == ("caf\u00e9", "tea")
    assert list_categories(result, "is_big") == ("false", "true")
    assert result.dataset_attributes["labels"] == ("1", "2")


def test_the_index_of_a_pandas_frame_is_no_feature(tmp_path: Path) -> None:
    frame = make_animals(400)
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "unnamed.parquet")
    frame.set_index(pd.Index(range(400, 800), name="customer")).to_parquet(tmp_path / "named.parquet")
    frame.to_csv(tmp_path / "unnamed.csv")
    assert "__index_level_0__" in parquet.read_schema(tmp_path / "unnamed.parquet").names

    for file in tmp_path.iterdir():
        result = scan_locally(make_recipe(Files(path=file, format=file.suffix[1:], target="kind")))
        assert result.dataset_attributes["input_schema"].feature_names == ("weight", "legs", "color")


def test_an_index_that_is_named_as_a_feature_is_one(tmp_path: Path) -> None:
    make_animals(400).set_index("legs").to_parquet(tmp_path / "rows.parquet")

    files = Files(path=tmp_path / "rows.parquet", format="parquet", target="kind", features=("legs", "color"))

    assert scan_locally(make_recipe(files)).dataset_attributes["input_schema"].feature_names == ("legs", "color")


@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_column_without_values_is_refused(tmp_path: Path, format_: str, missing: str) -> None:
    frame = make_animals(400)
    frame["empty"] = pd.Series([None] * 400, dtype="float64")

    with pytest.raises(UserError, match=r"column 'empty' has no value in any row|leaves a split|too few rows"):
        scan(frame, tmp_path, format_, missing=missing)


def test_categorical_nullable_and_decimal_columns_are_read_as_what_they_are(tmp_path: Path) -> None:
    frame = make_animals(400)
    frame["grade"] = pd.Categorical(np.arange(400) % 3 + 1)
    frame["color"] = pd.Categorical(frame["color"])
    frame["legs"] = frame["legs"].astype("Int8")
    frame["price"] = [Decimal(i) / 100 for i in range(400)]
    frame["half"] = (np.arange(400) / 8).astype(np.float16)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    parquet.write_table(table, tmp_path / "rows.parquet")

    result = scan_locally(make_recipe(Files(path=tmp_path / "rows.parquet", format="parquet", target="kind")))

    assert list_categories(result, "grade") == ("1", "2", "3")
    assert list_categories(result, "color") == ("blue", "green", "red")
    inputs = result.encoded_sample["inputs"]
    names = result.dataset_attributes["input_schema"].feature_names
    assert set(inputs[:, names.index("price")]) <= {np.float32(i / 100) for i in range(400)}
    assert inputs[:, names.index("half")].max() == 399 / 8


@pytest.mark.parametrize(
    "values",
    [
        pd.date_range("2026-01-01", periods=400),
        pd.to_timedelta(np.arange(400), "s"),
        [[1, 2]] * 400,
        [{"a": 1}] * 400,
    ],
    ids=["dates", "durations", "lists", "structs"],
)
def test_what_is_neither_number_nor_text_is_refused_by_name(tmp_path: Path, values: Any) -> None:
    frame = make_animals(400)
    frame["odd"] = values

    with pytest.raises(
        UserError, match=r"column 'odd' has type .*, which cannot be a feature; name it in data.exclude"
    ):
        scan(frame, tmp_path, "parquet")


def test_files_that_differ_are_read_where_they_mean_the_same(tmp_path: Path) -> None:
    frame = make_animals(400)
    folder = write_files(frame, tmp_path / "rows", "parquet", num_files=1)
    other = frame[["kind", "color", "legs", "weight"]].astype({"legs": "float32", "weight": "float32"})
    other.assign(color=pd.Categorical(other["color"]), extra=1).to_parquet(folder / "z.parquet", index=False)

    result = scan_locally(make_recipe(Files(path=folder, format="parquet", target="kind")))

    assert sum(result.row_counts.values()) == 800
    assert list_categories(result, "color") == ("blue", "green", "red")


def test_a_file_whose_column_is_another_kind_is_refused(tmp_path: Path) -> None:
    frame = make_animals(400)
    folder = write_files(frame, tmp_path / "rows", "parquet", num_files=1)
    frame.assign(legs=frame["color"]).to_parquet(folder / "z.parquet", index=False)

    with pytest.raises(UserError, match=r"z\.parquet, row 1, column 'legs': '\w+' is not a number"):
        scan_locally(make_recipe(Files(path=folder, format="parquet", target="kind")))
