"""Files that cannot be trained on: the message names file, row and column; no cluster."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from tests.training.data.files.small_files import (
    FORMATS,
    make_animals,
    make_recipe,
    scan_locally,
    write_files,
    write_images,
)
from training.errors import UserError
from training.recipe.spec import Files, Recipe

# Format, content of the second file (the first is valid), start of the message.
INVALID_FILES: dict[str, tuple[str, str, str]] = {
    "text in a number column": ("csv", "n,c,y\n1,a,p\nx,a,p\n", "b.csv, row 2, column 'n': 'x' is not a number"),
    "a missing number": ("csv", "n,c,y\n,a,p\n", "b.csv, row 1, column 'n': the value is missing; correct it, or"),
    "NA": ("csv", "n,c,y\n1,a,p\nNA,a,p\n", "b.csv, row 2, column 'n': 'NA' is missing; correct it"),
    "infinity": (
        "csv",
        "n,c,y\n1e999,a,p\n",
        "b.csv, row 1, column 'n': inf is not finite, and no missing value",
    ),
    "a number beyond float32": ("csv", "n,c,y\n1e39,a,p\n", "b.csv, row 1, column 'n': 1e+39 is out of the range"),
    "a code": (
        "csv",
        "n,c,y\n7,a,p\n01234,a,p\n",
        "b.csv, row 2, column 'n': '01234' in a column of numbers would lose",
    ),
    "a missing class": ("csv", "n,c,y\n1,a,\n", "b.csv, row 1, column 'y': the value is missing"),
    "a short row": ("csv", "n,c,y\n1,a,p\n1,a\n", "b.csv, row 2: 2 values, but the header has 3: '1,a'"),
    "a missing column": ("csv", "n,y\n1,p\n", "b.csv has no column 'c'; it has n, y"),
    "a duplicate column": ("csv", "n,c,y,n\n1,a,p,1\n", "b.csv has more than one column 'n'"),
    "another encoding": ("csv", "n,c,y\n1,\udcff,p\n", "b.csv, row 1, column 'c': '\ufffd' is not UTF-8"),
    "an empty file": ("csv", "", "b.csv cannot be read: Empty CSV file"),
    "half an object": ("jsonl", '{"n": 1, "c": "a", "y": "p"}\n{"n": 1,\n', "b.jsonl, row 2: not JSON"),
    "no object": ("jsonl", "[1]\n", "b.jsonl, row 1: not a JSON object: '[1]'"),
    "a string for a number": ("jsonl", '{"n": 1}\n{"n": "x"}\n', "b.jsonl, row 2, column 'n': 'x' is not a number"),
    "a number for a string": (
        "jsonl",
        '{"c": 3}\n',
        "b.jsonl, row 1, column 'c': 3 is not a string, the column's type in the first file",
    ),
    "NaN": ("jsonl", '{"n": NaN}\n', "b.jsonl, row 1, column 'n': nan is missing"),
}


@pytest.mark.parametrize("case", INVALID_FILES)
def test_a_message_names_file_row_and_column(tmp_path: Path, case: str) -> None:
    format_, content, expected = INVALID_FILES[case]
    frame = pd.DataFrame({"n": [1, 2], "c": ["a", "b"], "y": ["p", "q"]})
    folder = write_files(frame, tmp_path / "rows", format_, num_files=1)
    (folder / f"part-0.{format_}").rename(folder / f"a.{format_}")
    (folder / f"b.{format_}").write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(UserError) as raised:
        scan_locally(make_recipe(Files(path=folder, format=format_, target="y")))
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


def test_rows_are_numbered_across_row_groups_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.files.formats.BATCH_BYTES", 4000)
    numbers = [1.0] * 5000
    numbers[4321] = float("nan")
    frame = pd.DataFrame({"n": numbers, "y": ["p", "q"] * 2500})
    for format_ in FORMATS:
        folder = write_files(frame, tmp_path / format_, format_, num_files=1)
        with pytest.raises(UserError, match=rf"part-0.{format_}, row 4322, column 'n'"):
            scan_locally(make_recipe(Files(path=folder, format=format_, target="y")))


def test_a_parquet_file_of_another_type_is_named(tmp_path: Path) -> None:
    folder = write_files(make_animals(9), tmp_path / "a", "parquet", num_files=1)
    make_animals(9).assign(color=1).to_parquet(folder / "part-1.parquet")

    with pytest.raises(UserError, match=r"part-1.parquet, row 1, column 'color': type int64 is not text"):
        scan_locally(make_recipe(Files(path=folder, format="parquet", target="kind")))


def test_numbers_stored_as_strings_or_decimals_are_numbers(tmp_path: Path) -> None:
    folder = write_files(make_animals(90), tmp_path / "a", "parquet", num_files=1)
    recipe = make_recipe(Files(path=folder, format="parquet", target="kind"))
    expected = scan_locally(recipe).to_dataset()
    table = parquet.read_table(folder / "part-0.parquet")
    index = table.schema.get_field_index("weight")
    for arrow_type in (pa.string(), pa.decimal128(10, 3)):
        weight = table["weight"].cast(arrow_type, safe=False)
        parquet.write_table(table.set_column(index, "weight", weight), folder / "z.parquet")
        parquet.write_table(table.slice(0, 0), folder / "part-0.parquet")
        assert scan_locally(recipe).to_dataset().fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("light/x.png", "light/x.png: not an image that can be decoded"),
        ("x.png", "x.png is in no folder"),
    ],
)
def test_a_file_that_is_no_image_or_in_no_class_is_named(tmp_path: Path, name: str, expected: str) -> None:
    (write_images(tmp_path / "a") / name).write_text("not an image")
    files = Files(path=tmp_path / "a", format="images", height=8, width=6)

    with pytest.raises(UserError, match=expected):
        scan_locally(make_recipe(files, "image-classification"))


# Fields of Files, task, part of the message.
UNUSABLE_FILES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no folder": ({"path": "nowhere"}, "tabular-classification", "there is no '.*nowhere' on "),
    "a folder without such files": ({"format": "jsonl"}, "tabular-classification", "holds no jsonl file"),
    "an unknown scheme": ({"path": "ftp://a/b"}, "tabular-classification", "'ftp://a/b' cannot be opened"),
    "no such column": (
        {"features": ("wings",)},
        "tabular-classification",
        "has no column 'wings'; it has weight, legs, color, kind, same, own",
    ),
    "one class": ({"target": "same"}, "tabular-classification", "column 'same' is constant, 'x' in every row"),
    "too many categories": (
        {"features": ("own",)},
        "tabular-classification",
        "column 'own' has more than 1000 distinct values, too many for a cat",
    ),
    "too many classes": ({"target": "own"}, "tabular-classification", "too many for classes"),
    "a target that is not a number": (
        {"target": "color"},
        "tabular-regression",
        "row 1, column 'color': '[a-z]+' is not a number",
    ),
    "too few rows": ({"test_fraction": 1e-9}, "tabular-classification", "too few rows for three splits .*test 0"),
}


@pytest.mark.parametrize("case", UNUSABLE_FILES)
def test_files_that_cannot_be_trained_on_are_refused(tmp_path: Path, case: str) -> None:
    fields, task, expected = UNUSABLE_FILES[case]
    frame = make_animals(1600).assign(same="x", own=[f"row {i}" for i in range(1600)])
    folder = write_files(frame, tmp_path / "a", "csv")
    files = Files(**{"path": folder, "format": "csv", "target": "kind", "features": ("legs",)} | fields)

    with pytest.raises(UserError, match=expected):
        scan_locally(make_recipe(files, task))


INVALID_RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt key": ({"format": "csv", "taget": "y"}, "taget"),
    "images without a size": ({"format": "images"}, "needs height and width"),
    "images with columns": ({"format": "images", "height": 8, "width": 8, "target": "y"}, "have no columns"),
    "no target": ({"format": "csv"}, "needs target"),
    "texts and features": ({"format": "csv", "target": "y", "text": "t", "features": ("a",)}, "leave one of them out"),
    "the target among the features": ({"format": "csv", "target": "y", "features": ("y",)}, "remove it from"),
    "another task": ({"format": "images", "height": 8, "width": 8}, "they are for image-classification"),
}


@pytest.mark.parametrize("case", INVALID_RECIPES)
def test_a_recipe_is_refused_for_what_its_files_lack(case: str) -> None:
    fields, expected = INVALID_RECIPES[case]
    recipe = {"name": "r", "task": "tabular-classification", "net": {"source": "a:b"}, "data": {"path": "a"} | fields}

    with pytest.raises(ValidationError, match=expected):
        Recipe.model_validate(recipe)


@pytest.mark.parametrize("format_", ["csv", "images"])
def test_a_path_that_does_not_exist_is_said_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    columns: dict[str, Any] = {"target": "y"} if format_ == "csv" else {"height": 2, "width": 2}
    task = "tabular-classification" if format_ == "csv" else "image-classification"
    expected = rf"there is no '{tmp_path}/rows' on .*; a relative path is taken from the folder in which the command"

    with pytest.raises(UserError, match=expected):
        scan_locally(make_recipe(Files(path="rows", format=format_, **columns), task))
