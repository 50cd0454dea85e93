"""Rows of files reach a model as they are meant, and come back as they were; no cluster."""

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from cluster.cli.predict import _predict_in_parts
from cluster.prediction_files import MAX_PART_INPUTS, InputBatch, read_source, write_predictions
from deployments.client.inputs import encode_predict
from training.data.values import spell_category
from training.errors import UserError

TEXT = {"kind": "text"}


def table_of(**features: Any) -> dict[str, Any]:
    """A model's input schema: the categories of each feature, None for a number."""
    return {"kind": "table", "features": [{"name": name, "categories": each} for name, each in features.items()]}


def read(path: Path, schema: dict[str, Any] | None = None) -> InputBatch:
    return read_source(str(path), lambda: {"manifest": {"input_schema": schema}} if schema else {})


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("text,id\ngood,1\nNA,2\n", ["good", "NA"]),
        (",review\n0,good\n1,bad\n", ["good", "bad"]),
        ("Unnamed: 0,review\na,good\nb,bad\n", ["good", "bad"]),
        ("id,review,stars,when\n007,good,5,2026-01-01\n010,bad,1,2026-01-02\n", ["good", "bad"]),
        ("review\n12\n13\n", ["12", "13"]),
        ("\ufefftext\n good \n  \n", [" good ", None]),
    ],
)
def test_the_only_column_of_texts_is_the_text(tmp_path: Path, content: str, texts: list[str]) -> None:
    assert read(write(tmp_path / "rows.csv", content), TEXT).inputs == texts


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("id,review\na1,good\n", r"has 2 columns of texts \(id, review\), .*; rename the one that is meant to 'text'"),
        ("id,stars\n1,2\n", r"has no column of texts \(id, stars\)"),
        ("text,text\na,b\n", "has two columns 'text'; give each a name of its own"),
    ],
)
def test_a_text_that_is_not_clear_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read(write(tmp_path / "rows.csv", content), TEXT)


def test_a_parquet_files_index_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"review": [b"good", b"bad"]}, index=["x", "y"]).to_parquet(path)

    assert read(path, TEXT).inputs == ["good", "bad"]
    assert read(path).inputs == [{"review": "good"}, {"review": "bad"}]
    parquet.write_table(pa.table({"text": [b"\xff"]}), path)
    with pytest.raises(UserError, match=r"row 1, column 'text': b'\\xff' is not UTF-8"):
        read(path, TEXT)
    parquet.write_table(pa.table({"text": [1]}), path)
    with pytest.raises(UserError, match="column 'text' has type int64; the model takes texts"):
        read(path, TEXT)


OWN = "id,x,when,flag,big,note\n007,1.50,2026-01-01,False,12345678901234567891,NA\n,2,,true,2,\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_callers_columns_come_back_as_they_are(tmp_path: Path, suffix: str) -> None:
    batch = read(write(tmp_path / "rows.csv", OWN), table_of(x=None))
    out = tmp_path / f"out{suffix}"

    assert batch.inputs == [{"x": 1.5}, {"x": 2}]
    assert write_predictions(out, batch, [{"label": "a"}, {"label": "b"}]) == {}

    own = list(csv.DictReader(OWN.splitlines()))
    if suffix == ".csv":
        assert out.read_text() == OWN.replace("note\n", "note,label\n").replace("NA\n", "NA,a\n").replace(
            "2,\n", "2,,b\n"
        )
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows == [row | {"prediction": {"label": label}} for row, label in zip(own, "ab", strict=True)]
    else:
        rows = parquet.read_table(out).to_pylist()
        assert rows == [row | {"label": label} for row, label in zip(own, "ab", strict=True)]


@pytest.mark.parametrize(
    ("suffix", "expected", "names"),
    [
        (".csv", "x,label,predicted_label,predicted_label_2\n1,old,mine,new\n", {"label": "predicted_label_2"}),
        (".jsonl", '{"x": "1", "label": "old", "predicted_label": "mine", "prediction": {"label": "new"}}\n', {}),
    ],
)
def test_no_prediction_takes_the_place_of_a_column(
    tmp_path: Path, suffix: str, expected: str, names: dict[str, str]
) -> None:
    batch = read(write(tmp_path / "rows.csv", "x,label,predicted_label\n1,old,mine\n"), table_of(x=None))

    assert write_predictions(tmp_path / f"out{suffix}", batch, [{"label": "new"}]) == names
    assert (tmp_path / f"out{suffix}").read_text() == expected


def test_a_column_called_prediction_stays(tmp_path: Path) -> None:
    batch = read(write(tmp_path / "rows.csv", "x,prediction\n1,mine\n"), table_of(x=None))

    assert write_predictions(tmp_path / "o.jsonl", batch, [{"y": 2}]) == {"prediction": "predicted_prediction"}
    assert json.loads((tmp_path / "o.jsonl").read_text())["prediction"] == "mine"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("x\n1\ninf\n", r"rows.csv, row 2, column 'x': inf is not finite, and no missing value"),
        ("x\n1e400\n", "row 1, column 'x': inf is not finite"),
        ("x\ntrue\n", "row 1, column 'x': 'true' is not a number; correct it"),
        ("x\n1_000\n", "'1_000' is not a number"),
        ("x\n007\n", "'007' is no number, but a code"),
        ("x,x\n1,2\n", "has two columns 'x'"),
    ],
)
def test_what_is_no_number_is_refused_with_its_row(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read(write(tmp_path / "rows.csv", content), table_of(x=None))


def test_numbers_are_sent_as_they_are_written(tmp_path: Path) -> None:
    content = "x,y\n1700000001,a\n1.5,b\n 5,a\nNA,b\n12345678901234567891,a\n"

    batch = read(write(tmp_path / "rows.csv", content), table_of(x=None))

    assert [row["x"] for row in batch.inputs] == [1_700_000_001, 1.5, 5, None, 12345678901234567891]
    assert batch.ignored_columns == ("y",)


def test_parquet_columns_are_spelled_as_in_training(tmp_path: Path) -> None:
    table = pa.table(
        {
            "price": [Decimal("1.50"), Decimal("2.00")],
            "size": pa.array([0.1, None], pa.float32()),
            "color": pa.array([b"red", None]),
            "dose": pa.array(np.array([0.1, 1e-7], np.float32)).dictionary_encode(),
            "grade": pa.array([1, 2], pa.int8()),
            "flag": [True, False],
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    two = ["a", "b"]

    batch = read(tmp_path / "rows.parquet", table_of(price=None, size=None, color=two, dose=two, grade=two, flag=two))

    assert batch.inputs == [
        {"price": 1.5, "size": 0.1, "color": "red", "dose": "0.1", "grade": "1", "flag": True},
        {"price": 2, "size": None, "color": None, "dose": spell_category(1e-7), "grade": "2", "flag": False},
    ]


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    content = "\ufeffone\u2028two\x0cthree\x85four\r\n\nfive\rsix\n"

    assert read(write(tmp_path / "texts.txt", content)).inputs == ["one\u2028two\x0cthree\x85four", "five\rsix"]
    assert read(write(tmp_path / "a.jsonl", '\ufeff"one\u2028two"\r\n\n"three"')).inputs == ["one\u2028two", "three"]
    assert read(write(tmp_path / "a.json", '\ufeff{"inputs": ["a"]}')).inputs == ["a"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [('[{"x": 1, "x": 2}]', "key 'x' twice"), ("[1e400]", "1e400 is too large"), ("[NaN]", "NaN is not JSON")],
)
def test_json_that_loses_a_value_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_source(text, dict)


@pytest.mark.parametrize("number", ["inf", "-inf", "1e999"])
def test_infinity_in_a_file_is_refused_by_its_row(tmp_path: Path, number: str) -> None:
    with pytest.raises(UserError, match=r"a\.csv, row 2, column 'x': -?inf is not finite"):
        read(write(tmp_path / "a.csv", f"x,c\n1,a\n{number},a\n"), table_of(x=None, c=["a"]))
    with pytest.raises(UserError, match=r"line 2' .*1e400 is too large"):
        read(write(tmp_path / "a.jsonl", '{"x": 1}\n{"x": 1e400}\n'))


def test_a_row_is_named_by_its_number_in_the_file() -> None:
    class Client:
        def predict(self, name: str, rows: list[Any]) -> list[Any]:
            encode_predict(rows, {})
            return rows

    rows = [[1.0]] * MAX_PART_INPUTS + [[2.0], [float("inf")]]
    with pytest.raises(UserError, match=rf"^row {MAX_PART_INPUTS + 1}, element 0 is inf"):
        _predict_in_parts(Client(), "m", InputBatch(rows))
