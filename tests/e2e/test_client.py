"""The Python client against the real service."""

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster.local.record import Cluster
from cluster.settings import Settings
from deployments import errors
from deployments.client import AsyncClient, Client

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def key(served: Cluster, settings: Settings) -> str:
    return (settings.home / "secrets" / "admin_key").read_text().strip()


@pytest.fixture(scope="module")
def client(served: Cluster, key: str) -> Iterator[Client]:
    with Client(served.url, key) as client:
        yield client


@pytest.fixture(scope="module")
def logits(served: Cluster, http: httpx.Client) -> list[float]:
    tensor = {"name": "input", "shape": [5, 4], "datatype": "FP32", "data": ROWS.flatten().tolist()}
    answer = http.post("/v2/models/flowers/infer", json={"inputs": [tensor]})
    found: list[float] = answer.json()["outputs"][0]["data"]
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_go_in_and_out(client: Client, http: httpx.Client, logits: list[float], binary: bool) -> None:
    if binary and "binary_tensor_data" not in http.get("/v2").json()["extensions"]:
        pytest.skip("the server says that it lacks the binary extension")
    alone = client.infer("flowers", ROWS, binary=binary)
    named = client.infer("flowers", {"input": ROWS}, version=1, outputs=["logits"], binary=binary)

    assert alone.dtype == np.float32
    assert alone.shape == (5, 3)
    assert alone.flatten().tolist() == pytest.approx(logits, abs=1e-5)
    assert named["logits"].flatten().tolist() == pytest.approx(logits, abs=1e-5)


def test_a_task_is_asked_in_its_own_words(client: Client) -> None:
    record = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(out, "PNG")

    (by_name,) = client.predict("flowers", [record])
    (in_order,) = client.predict("flowers", np.array([list(record.values())]), top_k=3)
    (alone,), (listed,) = client.predict("pictures", out.getvalue()), client.predict("pictures", [out.getvalue()])

    assert by_name == in_order
    assert alone == listed
    assert alone["label"] in ("dark", "light")


def test_what_there_is_can_be_asked(client: Client) -> None:
    assert {"flowers", "pictures"} <= {model["name"] for model in client.models()}
    assert client.model("flowers")["status"] == "RUNNING"
    assert client.metadata("flowers", 1)["inputs"][0]["name"] == "input"
    assert client.ready("flowers")
    assert not client.ready("roses")
    assert not client.ready("flowers", 9)
    assert client.predict("flowers", **client.example("flowers"))


def test_each_refusal_is_an_error_of_its_own(served: Cluster, client: Client) -> None:
    with pytest.raises(errors.UnknownModel, match="roses") as unknown:
        client.predict("roses", [[1]])
    with pytest.raises(errors.InvalidFeatures):
        client.predict("flowers", [{"length": 1}])
    with pytest.raises(errors.InvalidImage):
        client.predict("pictures", b"\x89PNG no more")
    with pytest.raises(errors.Unprocessable):
        client.infer("flowers", {"input": ROWS[:, :3]}, binary=False)
    with Client(served.url, "wrong") as stranger, pytest.raises(errors.Unauthenticated):
        stranger.models()

    assert unknown.value.status == 404
    assert unknown.value.request_id


def test_the_async_client_asks_many_at_once(served: Cluster, key: str) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(served.url, key) as client:
            return await asyncio.gather(*(client.predict("flowers", ROWS[:n]) for n in range(1, 6)))

    assert [len(found) for found in asyncio.run(ask())] == [1, 2, 3, 4, 5]
