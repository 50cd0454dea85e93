"""What the Python client takes as inputs."""

import base64
import datetime
import importlib
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from deployments.client import Client
from deployments.client.inputs import encode_predict
from deployments.server.asgi import Scope
from tests.deployments.local_server import Reply, make_app, run_server

ROWS_WITH_A_HOLE = {"width": [1.5, None], "color": ["red", "white"]}
RECORDS = [{"width": 1.5, "color": "red"}, {"width": None, "color": "white"}]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_is_sent_as_records_and_a_missing_value_as_null(library: str) -> None:
    frame = importlib.import_module(library).DataFrame(ROWS_WITH_A_HOLE)
    seen: list[Any] = []

    def handler(path: str, body: bytes, scope: Scope) -> Reply:
        seen.append(json.loads(body))
        return 200, b'{"predictions": [1, 2]}', []

    with run_server(make_app(handler)) as url, Client(url, "k") as client:
        assert client.predict("flowers", frame, top_k=1) == [1, 2]
        client.predict("texts", frame["color"])

    assert seen == [{"inputs": RECORDS, "top_k": 1}, {"inputs": ["red", "white"]}]


def send(inputs: Any) -> Any:
    """What a service would read."""
    return json.loads(encode_predict(inputs, {})[0])["inputs"]


INFINITE: dict[str, Any] = {
    "list": ([[1.0], [1.0, math.inf]], "row 1, element 1"),
    "record": ([{"a": 1.0, "b": -math.inf}], "row 0, 'b'"),
    "numpy": (np.array([[1.0, 2.0], [1.0, np.inf]]), "row 1, element 1"),
    "numpy scalar": ([[np.float32(np.inf)]], "row 0, element 0"),
    "row of numpy": ([np.array([1.0, np.inf])], "row 0, element 1"),
    "pandas": (pd.DataFrame({"a": [1.0, np.inf]}), "row 1, 'a'"),
    "pandas series": (pd.Series([1.0, np.inf]), "row 1"),
    "polars": (pl.DataFrame({"a": [1.0, math.inf]}), "row 1, 'a'"),
    "decimal": ([[Decimal("1e999")]], "row 0, element 0"),
    "time steps": ([[[1.0], [math.inf]]], "row 0, element 1, element 0"),
    "beside what is missing": ([[None, math.inf]], "row 0, element 1"),
}


@pytest.mark.parametrize(("inputs", "place"), INFINITE.values(), ids=INFINITE)
def test_infinity_is_refused_by_its_place_and_not_sent_as_missing(inputs: Any, place: str) -> None:
    with pytest.raises(ValueError, match=rf"^{place} is -?inf; JSON has no infinity"):
        send(inputs)


DAY = datetime.datetime(2024, 1, 1)
NOT_JSON: dict[str, tuple[Any, str]] = {
    "bytes": ([b"good film"], "row 0 is 9 bytes, which are no PNG, JPEG, WEBP image; send a text as str"),
    "bytearray": ([{"a": bytearray(b"x")}], "row 0, 'a' is 1 bytes"),
    "memoryview": ([memoryview(b"abc")], "row 0 is 3 bytes"),
    "array of bytes": (np.array([b"good", b"bad"]), "row 0 is 4 bytes"),
    "another image": ([b"GIF89a"], "row 0 is 6 bytes, which are no PNG"),
    "date": ([DAY.date()], "row 0 is .*, a date, which JSON does not have"),
    "datetime": ([["a"], [DAY]], "row 1, element 0 is .*, a datetime"),
    "timedelta": ([datetime.timedelta(1)], "a timedelta"),
    "uuid": ([uuid.UUID(int=1)], "a UUID"),
    "set": ([{1, 2}], "a set"),
    "complex": ([[1j]], "a complex"),
    "datetime64": (np.array(["2024-01-01"], "M8[ns]"), "row 0 is .*, a datetime64"),
    "timedelta64": ([np.timedelta64(5, "s")], "a timedelta64"),
    "pandas": (pd.DataFrame({"a": pd.to_datetime(["2024-01-01"])}), "row 0, 'a' is .*, a Timestamp"),
    "pandas series": (pd.Series(pd.to_datetime(["2024-01-01"])), "row 0 is .*, a Timestamp"),
    "polars": (pl.DataFrame({"a": [DAY.date()]}), "row 0, 'a' is .*, a date"),
    "two columns of one name": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns 'a'"),
}


@pytest.mark.parametrize(("inputs", "message"), NOT_JSON.values(), ids=NOT_JSON)
def test_what_json_does_not_have_is_refused_by_its_place_and_not_sent_as_text(inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        send(inputs)


def test_what_is_missing_is_null() -> None:
    masked = np.ma.array([[1.0, 2.0]], mask=[[0, 1]])
    for inputs in ([[1.0, math.nan]], np.array([[1.0, np.nan]]), [[1.0, pd.NA]], [[1.0, np.datetime64("NaT")]], masked):
        assert send(inputs) == [[1.0, None]]
    assert send(pd.DataFrame({"a": pd.to_datetime([None])})) == [{"a": None}]


def test_numbers_texts_and_images_are_sent_as_what_they_are() -> None:
    image = b"\x89PNG..."
    assert send([image, "a", np.str_("b")]) == [base64.b64encode(image).decode(), "a", "b"]
    assert send([Decimal("1.5"), Decimal(2**60 + 1), np.int8(3), np.bool_(True)]) == [1.5, 2**60 + 1, 3, True]
    assert send(np.array([[1, 2]], np.uint8)) == [[1, 2]]
    assert send((("a", 1), {"b": [True, None]})) == [["a", 1], {"b": [True, None]}]
    assert json.loads(encode_predict(["a"], {"top_k": np.int64(3)})[0])["top_k"] == 3


@pytest.mark.parametrize("option", ["timeout", "priority", "retries"])
def test_an_option_of_the_client_is_no_option_of_a_call(option: str) -> None:
    with pytest.raises(TypeError, match=rf"{option}: of the client and not of a call; Client\({option}=\.\.\.\)"):
        encode_predict([1], {option: 1})
