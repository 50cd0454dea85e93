"""Files that cannot be trained on: what is wrong is named by file, row and column; no cluster."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from tests.training.data.files.test_files import FORMATS, animals, pictures, recipe, surveyed, write
from training.errors import UserError
from training.recipe.spec import Files, Recipe

# What is wrong: format, content of the second file (the first is sound), rest of the recipe, what is said.
SOUND = "n,c,y\n1,a,p\n2,b,q\n" * 1
WRONG: dict[str, tuple[str, str, str]] = {
    "a word for a number": ("csv", "n,c,y\n1,a,p\nx,a,p\n", "b.csv, row 2, column 'n': 'x' is no number"),
    "a number that is missing": ("csv", "n,c,y\n,a,p\n", "b.csv, row 1, column 'n': the value is missing; mend it, or"),
    "no number": ("csv", "n,c,y\n1,a,p\nNA,a,p\n", "b.csv, row 2, column 'n': 'NA' is missing or not finite; mend it"),
    "an endless number": ("csv", "n,c,y\n1e999,a,p\n", "b.csv, row 1, column 'n': '1e999' is missing or not finite"),
    "a class that is missing": ("csv", "n,c,y\n1,a,\n", "b.csv, row 1, column 'y': the value is missing"),
    "a row that is too short": ("csv", "n,c,y\n1,a,p\n1,a\n", "b.csv, row 2: 2 values, where the header has 3: '1,a'"),
    "a column that is not there": ("csv", "n,y\n1,p\n", "b.csv has no column 'c'; it has n, y"),
    "a column that is there twice": ("csv", "n,c,y,n\n1,a,p,1\n", "b.csv has more than one column 'n'"),
    "another encoding": ("csv", "n,c,y\n1,\udcff,p\n", "b.csv, row 1, column 'c': '\ufffd' is not UTF-8"),
    "an empty file": ("csv", "", "b.csv cannot be read: Empty CSV file"),
    "half an object": ("jsonl", '{"n": 1, "c": "a", "y": "p"}\n{"n": 1,\n', "b.jsonl, row 2: no JSON"),
    "no object": ("jsonl", "[1]\n", "b.jsonl, row 1: no JSON object: '[1]'"),
    "a text for a number": ("jsonl", '{"n": 1}\n{"n": "x"}\n', "b.jsonl, row 2, column 'n': 'x' is no number"),
    "a number for a text": ("jsonl", '{"c": 3}\n', "b.jsonl, row 1, column 'c': 3 is no text, as it is in the first"),
    "a number that is none": ("jsonl", '{"n": NaN}\n', "b.jsonl, row 1, column 'n': nan is missing or not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_file_is_named_by_file_row_and_column(tmp_path: Path, case: str) -> None:
    format_, content, expected = WRONG[case]
    write(pd.DataFrame({"n": [1, 2], "c": ["a", "b"], "y": ["p", "q"]}), tmp_path / "rows", format_, files=1)
    (tmp_path / "rows" / "part-0").with_suffix(f".{format_}").rename(tmp_path / "rows" / f"a.{format_}")
    (tmp_path / "rows" / f"b.{format_}").write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(UserError) as raised:
        surveyed(recipe(Files(path=tmp_path / "rows", format=format_, target="y")))
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


def test_a_row_is_counted_over_the_row_groups_and_batches_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.files.formats.BATCH_BYTES", 4000)
    numbers = [1.0] * 5000
    numbers[4321] = float("nan")
    frame = pd.DataFrame({"n": numbers, "y": ["p", "q"] * 2500})
    for format_ in FORMATS:
        files = Files(path=write(frame, tmp_path / format_, format_, files=1), format=format_, target="y")
        with pytest.raises(UserError, match=rf"part-0.{format_}, row 4322, column 'n'"):
            surveyed(recipe(files))


def test_a_parquet_file_of_another_type_is_named(tmp_path: Path) -> None:
    folder = write(animals(9), tmp_path / "a", "parquet", files=1)
    animals(9).assign(colour=1).to_parquet(folder / "part-1.parquet")

    with pytest.raises(UserError, match=r"part-1.parquet, row 1, column 'colour': int64 is no text"):
        surveyed(recipe(Files(path=folder, format="parquet", target="kind")))


def test_numbers_that_were_stored_as_texts_or_decimals_are_numbers(tmp_path: Path) -> None:
    folder = write(animals(90), tmp_path / "a", "parquet", files=1)
    expected = surveyed(recipe(Files(path=folder, format="parquet", target="kind"))).to_dataset()
    table = parquet.read_table(folder / "part-0.parquet")
    index = table.schema.get_field_index("weight")
    for type_ in (pa.string(), pa.decimal128(10, 3)):
        parquet.write_table(
            table.set_column(index, "weight", table["weight"].cast(type_, safe=False)), folder / "z.parquet"
        )
        parquet.write_table(table.slice(0, 0), folder / "part-0.parquet")
        found = surveyed(recipe(Files(path=folder, format="parquet", target="kind"))).to_dataset()
        assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("format_", "name", "expected"),
    [
        ("images", "light/x.png", "light/x.png: no picture that can be decoded"),
        ("images", "x.png", "x.png stands in no folder"),
    ],
)
def test_a_file_that_is_no_picture_or_in_no_class_is_named(
    tmp_path: Path, format_: str, name: str, expected: str
) -> None:
    (pictures(tmp_path / "a") / name).write_text("no picture")

    with pytest.raises(UserError, match=expected):
        surveyed(recipe(Files(path=tmp_path / "a", format="images", height=8, width=6), "image-classification"))


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"path": "nowhere"}, "nowhere' cannot be read"),
    "a folder without such files": ({"format": "jsonl"}, "holds no jsonl file"),
    "a scheme that nobody knows": ({"path": "ftp://a/b"}, "'ftp://a/b' cannot be opened"),
    "no such column": ({"features": ("wings",)}, "has no column 'wings'; it has weight, legs, colour, kind"),
    "one class": ({"target": "same"}, "column 'same' holds 'x' in every row, which tells nothing"),
    "too many levels": (
        {"features": ("own",)},
        "column 'own' holds more than 1000 different texts, too many for a cat",
    ),
    "too many classes": ({"target": "own"}, "too many for classes"),
    "no number to learn": (
        {"target": "colour", "task": "tabular-regression"},
        "row 1, column 'colour': '[a-z]+' is no",
    ),
    "too few rows": ({"test_fraction": 1e-9}, "too few rows for three parts .*test 0"),
}


@pytest.mark.parametrize("case", PLACES)
def test_files_that_cannot_be_trained_on_are_refused(tmp_path: Path, case: str) -> None:
    rest, expected = PLACES[case]
    frame = animals(1200).assign(same="x", own=[f"row {i}" for i in range(1200)])
    columns = ["weight", "legs", "colour", "kind"] if "features" in rest and case == "no such column" else frame.columns
    arguments = {"path": write(frame[columns], tmp_path / "a", "csv"), "format": "csv", "target": "kind"}
    task = rest.get("task", "tabular-classification")
    arguments |= {key: value for key, value in rest.items() if key != "task"}
    arguments.setdefault("features", ("legs",) if case != "no such column" else ())

    with pytest.raises(UserError, match=expected):
        surveyed(recipe(Files(**arguments), task))


CLOSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt key": ({"format": "csv", "taget": "y"}, "taget"),
    "pictures without a size": ({"format": "images"}, "need height and width"),
    "pictures with columns": ({"format": "images", "height": 8, "width": 8, "target": "y"}, "have no columns"),
    "no target": ({"format": "csv"}, "name the column that is learnt"),
    "texts and features": ({"format": "csv", "target": "y", "text": "t", "features": ("a",)}, "leave one of them out"),
    "the target among the features": ({"format": "csv", "target": "y", "features": ("y",)}, "take it out"),
    "another task": ({"format": "images", "height": 8, "width": 8}, "they are for image-classification"),
}


@pytest.mark.parametrize("case", CLOSED)
def test_a_recipe_says_at_once_what_its_files_lack(case: str) -> None:
    rest, expected = CLOSED[case]

    with pytest.raises(ValidationError, match=expected):
        Recipe.model_validate(
            {
                "name": "r",
                "task": "tabular-classification",
                "net": {"source": "a:b"},
                "data": {"path": "a"} | rest,
            }
        )
