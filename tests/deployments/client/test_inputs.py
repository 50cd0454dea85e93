"""What the Python client takes as inputs."""

import importlib
import json
from typing import Any

import pytest

from deployments.client import Client
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


def test_a_frame_with_two_columns_of_one_name_is_refused() -> None:
    pandas = importlib.import_module("pandas")
    frame = pandas.DataFrame([[1, 2]], columns=["width", "width"])

    with Client("http://127.0.0.1:1", "k") as client, pytest.raises(TypeError, match="has two columns 'width'"):
        client.predict("flowers", frame)
