"""What is fitted comes from training rows; held-out rows that serving would refuse are left out, and said."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.training.data.files.small_files import make_recipe, scan_locally, write_files
from training.errors import UserError
from training.recipe.spec import Cleaning, Files
from training.schema import TableInput


def scan(folder: Path, columns: dict[str, Any], **fields: Any) -> Any:
    """Scan 40 training rows, 5 of validation and 5 of test."""
    part = ["train"] * 40 + ["validation"] * 5 + ["test"] * 5
    frame = pd.DataFrame({"n": [i / 7 for i in range(50)], "y": ["p", "q"] * 25} | columns | {"part": part})
    path = write_files(frame, folder / "rows", "csv", 2)
    return scan_locally(make_recipe(Files(path=path, format="csv", target="y", split_column="part"), **fields))


@pytest.mark.parametrize("missing", ["refuse", "mean"])
def test_a_category_of_held_out_rows_alone_is_none_of_the_models_and_such_rows_are_not_scored(
    tmp_path: Path, missing: Any
) -> None:
    color = ["red", "blue"] * 20 + ["red"] * 5 + ["red", "green", "lime", "blue", "green"]

    found = scan(tmp_path, {"color": color}, clean=Cleaning(missing=missing))

    dataset = found.to_dataset()
    assert isinstance(dataset.input_schema, TableInput)
    assert dataset.input_schema.features[1].categories == ("blue", "red")
    assert found.sample_counts == {"train": 40, "validation": 5, "test": 2}
    assert not dataset.inputs.isnan().any()
    message = (
        "3 of 5 test rows are left out of the scores, since they have a category that no training row has and that "
        "serving would refuse (color 'green', 'lime')"
    )
    assert found.warnings == (message,)
    assert message in dataset.split_description


def test_a_class_that_training_missed_is_still_scored(tmp_path: Path) -> None:
    found = scan(tmp_path, {"y": ["p", "q"] * 20 + ["p"] * 5 + ["r"] * 5})

    assert found.to_dataset().labels == ("p", "q", "r")
    assert found.sample_counts["test"] == 5


@pytest.mark.parametrize("has_id", [True, False])
def test_an_id_in_numbers_is_warned_of_and_a_measure_is_not(tmp_path: Path, has_id: bool) -> None:
    rows = {"customer": list(range(1000, 1050))} if has_id else {}

    found = scan(tmp_path, rows)

    message = "column 'customer' has a different value in every row, as an id has; if it is one, name it in"
    assert [warning[: len(message)] for warning in found.warnings] == [message] * len(rows)


def test_an_id_in_texts_ends_the_run_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"most of them in column 'customer'; if it is an id, name it in data\.exclude"):
        scan(tmp_path, {"customer": [f"c{i}" for i in range(50)]})


def test_a_column_that_is_constant_in_training_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column 'color' is constant, 'red' in every training row"):
        scan(tmp_path, {"color": ["red"] * 45 + ["blue"] * 5})
