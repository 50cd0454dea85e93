"""The Python client against the real service."""

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from deployments import errors
from deployments.client import AsyncClient, Client

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def key(serving_cluster: Cluster, settings: Settings) -> str:
    return (settings.home / "secrets" / "admin_key").read_text().strip()


@pytest.fixture(scope="module")
def client(serving_cluster: Cluster, key: str) -> Iterator[Client]:
    with Client(serving_cluster.url, key) as client:
        yield client


@pytest.fixture(scope="module")
def logits(serving_cluster: Cluster, http: httpx.Client) -> list[float]:
    tensor = {"name": "input", "shape": [5, 4], "datatype": "FP32", "data": ROWS.flatten().tolist()}
    response = http.post("/v2/models/flowers/infer", json={"inputs": [tensor]})
    data: list[float] = response.json()["outputs"][0]["data"]
    return data


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_go_in_and_out(client: Client, http: httpx.Client, logits: list[float], binary: bool) -> None:
    if binary and "binary_tensor_data" not in http.get("/v2").json()["extensions"]:
        pytest.skip("the server has no binary extension")
    output = client.infer("flowers", ROWS, binary=binary)
    outputs = client.infer("flowers", {"input": ROWS}, version=1, outputs=["logits"], binary=binary)

    assert output.dtype == np.float32
    assert output.shape == (5, 3)
    assert output.flatten().tolist() == pytest.approx(logits, abs=1e-5)
    assert outputs["logits"].flatten().tolist() == pytest.approx(logits, abs=1e-5)


def test_predict_takes_and_returns_the_tasks_own_json(client: Client) -> None:
    record = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
    png = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(png, "PNG")

    (from_record,) = client.predict("flowers", [record])
    (from_array,) = client.predict("flowers", np.array([list(record.values())]), top_k=3)
    (from_bytes,), (from_list,) = client.predict("images", png.getvalue()), client.predict("images", [png.getvalue()])

    assert from_record == from_array
    assert from_bytes == from_list
    assert from_bytes["label"] in ("dark", "light")


def test_models_and_their_metadata_can_be_listed(client: Client) -> None:
    assert {"flowers", "images"} <= {model["name"] for model in client.models()}
    assert client.model("flowers")["status"] == "RUNNING"
    assert client.metadata("flowers", 1)["inputs"][0]["name"] == "input"
    assert client.ready("flowers")
    assert not client.ready("roses")
    assert not client.ready("flowers", 9)
    assert client.predict("flowers", **client.example("flowers"))


def test_each_refusal_has_its_own_error_class(serving_cluster: Cluster, client: Client) -> None:
    with pytest.raises(errors.UnknownModel, match="roses") as error:
        client.predict("roses", [[1]])
    with pytest.raises(errors.InvalidFeatures):
        client.predict("flowers", [{"length": 1}])
    with pytest.raises(errors.InvalidImage):
        client.predict("images", b"\x89PNG no more")
    with pytest.raises(errors.Unprocessable):
        client.infer("flowers", {"input": ROWS[:, :3]}, binary=False)
    with Client(serving_cluster.url, "wrong") as unauthenticated_client, pytest.raises(errors.Unauthenticated):
        unauthenticated_client.models()

    assert error.value.status == 404
    assert error.value.request_id


def test_the_async_client_sends_many_requests_at_once(serving_cluster: Cluster, key: str) -> None:
    async def predict_all() -> list[list[Any]]:
        async with AsyncClient(serving_cluster.url, key) as client:
            return await asyncio.gather(*(client.predict("flowers", ROWS[:n]) for n in range(1, 6)))

    assert [len(predictions) for predictions in asyncio.run(predict_all())] == [1, 2, 3, 4, 5]
