"""API keys on a real cluster: what one allows counts on every way to a model, within a second, and nothing restarts."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from deployments.client import Client
from deployments.errors import Forbidden, Unauthenticated
from tests.conftest import ShoalCli, open_http, wait_until

STAYING = ("flowers", "images", "shoal.edge", "shoal.control")
ROW = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture(scope="module")
def http(settings: Settings, serving_cluster: Cluster) -> Iterator[httpx.Client]:
    with open_http(settings, serving_cluster) as client:
        yield client


def create_key(shoal: ShoalCli, name: str, *arguments: str) -> dict[str, Any]:
    created = shoal("keys", "create", name, "--tenant", "keysmiths", *arguments, "--json")
    assert created.returncode == 0, created.stderr
    content: dict[str, Any] = json.loads(created.stdout)
    return content


def get_status(http: httpx.Client, key: str, path: str, body: object = None) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return http.request("GET" if body is None else "POST", path, json=body, headers=headers).status_code


def infer_by_grpc(cluster: Cluster, key: str, model: str) -> str:
    """The error of a call; empty for none."""
    tensor = tritonclient.grpc.InferInput("input", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array(ROW["inputs"], np.float32))
    with tritonclient.grpc.InferenceServerClient(cluster.grpc_address) as client:
        try:
            client.infer(model, [tensor], headers={"authorization": f"Bearer {key}"})
        except InferenceServerException as error:
            return str(error)
    return ""


def list_cluster_processes(settings: Settings) -> set[int]:
    """The replicas that stay: gateways come and go with their load, and so do processes before a reload."""
    pids = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith(tuple(f"ray::ServeReplica:{name}:" for name in STAYING)):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.environ().get("SHOAL_HOME") == str(settings.home):
                    pids.add(process.pid)
    return pids


def test_a_key_allows_what_it_says_on_every_way_to_a_model(
    shoal: ShoalCli, http: httpx.Client, settings: Settings, serving_cluster: Cluster
) -> None:
    processes = list_cluster_processes(settings)
    assert processes
    created = create_key(shoal, "walker", "--allow", "predict:flow*", "--expires", "1h")
    key, key_id = created["key"], created["id"]

    assert wait_until(lambda: get_status(http, key, "/v2/models/flowers/predict", ROW) == 200, 1.0)
    (version,) = http.get("/v2/models/flowers").json()["versions"]
    ways = [
        ("/v2/models/{}/predict", ROW),
        (f"/v2/models/{{}}/versions/{version}/predict", ROW),
        ("/api/v1/models/{}/predict", ROW),
        ("/v2/models/{}", None),
        ("/v2/models/{}/example", None),
        ("/api/v1/models/{}", None),
    ]
    for way, body in ways:
        assert get_status(http, key, way.format("flowers"), body) == 200, way
        assert get_status(http, key, way.format("images"), body) == 403, way
        assert get_status(http, key, way.format("no-such-model"), body) == 403, way
    assert infer_by_grpc(serving_cluster, key, "flowers") == ""
    assert "does not allow predict:images" in infer_by_grpc(serving_cluster, key, "images")
    assert get_status(http, key, "/metrics") == 403
    assert get_status(http, key, "/api/v1/keys", {"name": "more"}) == 403
    listed = http.get("/api/v1/models", headers={"authorization": f"Bearer {key}"}).json()["models"]
    assert [model["name"] for model in listed] == ["flowers"]
    with Client(serving_cluster.url, key) as client:
        assert client.predict("flowers", ROW["inputs"])
        with pytest.raises(Forbidden, match="the key keysmiths/walker does not allow predict:images"):
            client.predict("images", [[[0.0] * 8] * 8])

    assert shoal("keys", "update", "walker", "--allow", "predict:images").returncode == 0
    assert wait_until(lambda: get_status(http, key, "/v2/models/flowers/predict", ROW) == 403, 1.0)
    rotated = json.loads(shoal("keys", "rotate", key_id, "--grace", "0s", "--json").stdout)
    assert wait_until(lambda: get_status(http, key, "/v2/models/images") == 401, 1.0)
    assert get_status(http, rotated["key"], "/v2/models/images") == 200
    assert shoal("keys", "revoke", "keysmiths/walker").returncode == 0
    assert wait_until(lambda: get_status(http, rotated["key"], "/v2/models/images") == 401, 1.0)
    with Client(serving_cluster.url, rotated["key"]) as client, pytest.raises(Unauthenticated):
        client.predict("flowers", ROW["inputs"])
    assert list_cluster_processes(settings) == processes


def test_nothing_of_a_key_is_kept_where_somebody_could_read_it(
    shoal: ShoalCli, http: httpx.Client, settings: Settings
) -> None:
    created = create_key(shoal, "secret", "--allow", "predict:*")
    secret = created["key"].rpartition("_")[2][-20:]
    assert wait_until(lambda: get_status(http, created["key"], "/v2/models/flowers/predict", ROW) == 200, 1.0)
    assert get_status(http, created["key"] + "x", "/v2/models/flowers/predict", ROW) == 401

    found = [
        str(file)
        for file in Path(settings.home).rglob("*")
        if file.is_file() and not file.is_socket() and secret.encode() in file.read_bytes()
    ]

    assert found == []
    assert secret not in shoal("keys", "show", "secret", "--json").stdout
    assert shoal("keys", "revoke", "secret").returncode == 0
