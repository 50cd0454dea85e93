"""Files with columns that are no features: an id that is left out, and a column that says each row's split."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.training.data.files.small_files import FORMATS, make_animals, make_recipe, scan_locally, write_files
from training.errors import UserError
from training.recipe.spec import Files
from training.schema import SPLITS, TableInput

COUNTS = {"train": 400, "validation": 50, "test": 150}


def make_split_animals() -> pd.DataFrame:
    frame = make_animals()
    frame.insert(0, "id", [f"animal-{index}" for index in range(len(frame))])
    frame["part"] = np.random.default_rng(1).permutation(np.repeat(list(COUNTS), list(COUNTS.values())))
    return frame


def scan(folder: Path, frame: pd.DataFrame, format_: Any, **fields: Any) -> Any:
    path = write_files(frame, folder / "rows", format_)
    files = Files(path=path, format=format_, target="kind", exclude=("id",), split_column="part", **fields)
    return scan_locally(make_recipe(files))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_column_decides_each_rows_split_and_is_no_feature(tmp_path: Path, format_: str) -> None:
    frame = make_split_animals()

    found = scan(tmp_path, frame, format_)

    assert found.row_counts == COUNTS
    dataset, indices = found.to_dataset(), found.split_index()
    assert isinstance(dataset.input_schema, TableInput)
    assert [feature.name for feature in dataset.input_schema.features] == ["weight", "legs", "color"]
    for split in SPLITS:
        weights = np.sort(dataset.inputs[indices[split], 0].numpy())
        assert np.array_equal(weights, np.sort(frame[frame.part == split].weight.to_numpy(np.float32)))
    assert dataset.split_description.startswith("by column 'part'")


def test_only_training_rows_are_streamed(tmp_path: Path) -> None:
    from training.data.files.read_tasks import read_training_rows

    found = scan(tmp_path, make_split_animals(), "csv")

    units = {"unit": [unit.model_dump_json() for unit in found.units]}
    assert sum(len(part["targets"]) for part in read_training_rows(units, reader=found.reader)) == COUNTS["train"]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_value_that_is_no_split_is_named_with_file_and_row(tmp_path: Path, format_: str) -> None:
    frame = make_split_animals()
    frame.loc[7, "part"] = "dev"

    with pytest.raises(UserError, match=rf"part-1\.{format_}, row 3, column 'part': 'dev' is not a split; write train"):
        scan(tmp_path, frame, format_)


def test_a_row_without_a_split_is_refused(tmp_path: Path) -> None:
    frame = make_split_animals()
    frame.loc[0, "part"] = None

    with pytest.raises(UserError, match=r"part-0\.csv, row 1, column 'part': the value is missing"):
        scan(tmp_path, frame, "csv")


def test_a_split_without_rows_is_named(tmp_path: Path) -> None:
    frame = make_split_animals()
    frame["part"] = frame.part.replace("validation", "train")

    with pytest.raises(UserError, match=r"column 'part' leaves a split without rows \(train 450, validation 0, test"):
        scan(tmp_path, frame, "csv")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exclude": ("idd",)}, "has no column 'idd'; it has id, weight, legs, color, kind, part"),
        ({"split_column": "fold"}, "has no column 'fold'"),
    ],
)
def test_a_column_that_does_not_exist_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = write_files(make_split_animals(), tmp_path / "rows", "csv")

    with pytest.raises(UserError, match=message):
        scan_locally(make_recipe(Files(path=path, format="csv", target="kind", **fields)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "kind", "exclude": ("id",), "features": ("legs",)}, "leave exclude out"),
        ({"target": "kind", "split_column": "legs", "features": ("legs",)}, "split_column 'legs' is also an input"),
        ({"target": "kind", "split_column": "kind"}, "target and split_column are both 'kind'"),
        ({"format": "images", "height": 8, "width": 8, "split_column": "part"}, "images have no columns"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Files(**{"path": "rows", "format": "csv"} | fields)
