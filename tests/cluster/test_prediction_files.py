"""Rows and texts of files as a model's inputs: what they mean, or the row that means nothing."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from cluster.cli.predict import _predict_in_parts
from cluster.prediction_files import MAX_PART_INPUTS, InputBatch, read_source
from deployments.client.inputs import encode_predict
from training.errors import UserError

TEXT = {"manifest": {"input_schema": {"kind": "text"}}}
FEATURES = [{"name": "x", "categories": None}, {"name": "c", "categories": ["a"]}]
TABLE = {"manifest": {"input_schema": {"kind": "table", "features": FEATURES}}}


def read(path: Path, columns: dict[str, Any], model: dict[str, Any]) -> list[Any]:
    parquet.write_table(pa.table(columns), path)
    return read_source(str(path), lambda: model).inputs


def test_bytes_are_texts_as_in_training(tmp_path: Path) -> None:
    assert read(tmp_path / "a.parquet", {"text": pa.array([b"good", "caf\u00e9".encode()])}, TEXT) == [
        "good",
        "caf\u00e9",
    ]
    assert read(tmp_path / "b.parquet", {"x": [1.0], "c": [b"a"]}, TABLE) == [{"x": 1.0, "c": "a"}]
    with pytest.raises(UserError, match=r"a\.parquet, row 1, column 'text': .* is not UTF-8"):
        read(tmp_path / "a.parquet", {"text": [b"good", b"\xff"]}, TEXT)


@pytest.mark.parametrize("number", ["inf", "-inf", "1e999"])
def test_infinity_in_a_file_is_refused_by_its_row(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.csv").write_text(f"x,c\n1,a\n{number},a\n")
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": 1e400}\n')
    for name in ("a.csv", "a.jsonl"):
        rows = read_source(str(tmp_path / name), lambda: TABLE).inputs
        with pytest.raises(ValueError, match=r"row 1, 'x' is -?inf"):
            encode_predict(rows, {})


def test_a_row_is_named_by_its_number_in_the_file() -> None:
    class Client:
        def predict(self, name: str, rows: list[Any]) -> list[Any]:
            encode_predict(rows, {})
            return rows

    rows = [[1.0]] * MAX_PART_INPUTS + [[2.0], [float("inf")]]
    with pytest.raises(UserError, match=rf"^row {MAX_PART_INPUTS + 1}, element 0 is inf"):
        _predict_in_parts(Client(), "m", InputBatch(rows))
