"""Usage on a real cluster: what callers count is what is metered, over every way in."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy_pipeline
from cluster.settings import Settings
from deployments.specs.pipeline import Pipeline
from tests.conftest import ShoalCli, wait_until
from tests.deployments.callers import add_key

ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]], dtype=np.float32)
TENSOR = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": ROWS.flatten().tolist()}
# Each caller's requests of each kind.
REQUESTS = 5


class Tenant:
    """A tenant with one key, and clients that send it."""

    def __init__(self, settings: Settings, cluster: Cluster, name: str) -> None:
        self.name = name
        _, key = add_key(settings, "ci", name, "predict:*,usage")
        self.headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=cluster.url, headers=self.headers, trust_env=False, timeout=30)
        self.grpc = tritonclient.grpc.InferenceServerClient(cluster.grpc_address)
        assert wait_until(lambda: self.http.get("/v2/models/flowers").status_code == 200, 10)

    def infer_by_grpc(self) -> None:
        tensor = tritonclient.grpc.InferInput("input", [2, 4], "FP32")
        tensor.set_data_from_numpy(ROWS)
        self.grpc.infer("flowers", [tensor], headers=self.headers)

    def post(self, path: str, content: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(path, json=content, headers=headers)

    def read_usage(self, **parameters: str) -> list[dict[str, Any]]:
        response = self.http.get("/api/v1/usage", params=parameters)
        assert response.status_code == 200, response.text
        usage: list[dict[str, Any]] = response.json()["usage"]
        return usage

    def read_model(self, model: str) -> dict[str, Any]:
        return next((row for row in self.read_usage(by="model") if row["model"] == model), {})


@pytest.fixture(scope="module")
def tenants(settings: Settings, serving_cluster: Cluster) -> Iterator[list[Tenant]]:
    tenants = [Tenant(settings, serving_cluster, name) for name in ("stark", "wayne")]
    yield tenants
    for tenant in tenants:
        tenant.http.close()
        tenant.grpc.close()


def test_every_way_in_counts_each_answer_once(tenants: list[Tenant], settings: Settings) -> None:
    for number in range(REQUESTS):
        for tenant in tenants:
            # Its own ids, again and again, are no way around the bill.
            ids = {"x-request-id": "the same", "x-shoal-event": "0" * 32}
            assert tenant.post("/v2/models/flowers/infer", {"inputs": [TENSOR]}, **ids).status_code == 200
            predict = {"inputs": [ROW] * 3}
            assert tenant.post("/v2/models/flowers/predict", predict, **ids).status_code == 200
            assert tenant.post("/api/v1/models/flowers/predict", predict, **ids).status_code == 200
            tenant.infer_by_grpc()
            if number:
                assert tenant.post("/v2/models/flowers/predict", {"inputs": [[1]]}).status_code == 422
    counted_s = time.monotonic()

    for tenant in tenants:
        assert wait_until(lambda tenant=tenant: tenant.read_model("flowers").get("requests") == 4 * REQUESTS, 5)
        assert time.monotonic() - counted_s < 3
        row = tenant.read_model("flowers")
        assert (row["rows"], row["refused"], row["failed"]) == (10 * REQUESTS, REQUESTS - 1, 0)
        assert 0 < row["compute_s"] < 10
        assert row["bytes_in"] > 0
        assert row["bytes_out"] > 0
        assert row["joules"] is None
        (by_key,) = [each for each in tenant.read_usage(by="key") if each["key"] == "ci"]
        assert (by_key["tenant"], by_key["requests"]) == (tenant.name, 4 * REQUESTS)


def test_a_tenant_sees_its_own_usage_and_no_other_ones(tenants: list[Tenant], http: httpx.Client) -> None:
    first, second = tenants

    assert {row["tenant"] for row in first.read_usage(by="tenant")} == {first.name}
    assert first.http.get("/api/v1/usage", params={"tenant": second.name}).status_code == 403
    assert first.http.get("/api/v1/usage/capacity").status_code == 403
    everybody = http.get("/api/v1/usage", params={"by": "tenant"}).json()["usage"]
    assert {row["tenant"] for row in everybody} >= {first.name, second.name}
    assert first.http.get("/api/v1/usage", params={"from": "yesterday"}).status_code == 422


def test_a_pipelines_request_is_one_and_its_nodes_compute(
    tenants: list[Tenant], settings: Settings, serving_cluster: Cluster
) -> None:
    tenant = tenants[0]
    nodes = {"kind": "fan-out", "nodes": {"first": {"model": "flowers"}, "second": {"model": "flowers"}}}
    pipeline = Pipeline.model_validate({"name": "twice", "root": nodes})
    before = tenant.read_model("flowers")
    deploy_pipeline(settings, serving_cluster, pipeline, lambda status: None)

    for _ in range(REQUESTS):
        assert tenant.post("/v2/models/twice/predict", {"inputs": [ROW, ROW]}).status_code == 200

    assert wait_until(lambda: tenant.read_model("twice").get("requests") == REQUESTS, 5)
    assert wait_until(lambda: tenant.read_model("flowers")["rows"] == before["rows"] + 4 * REQUESTS, 5)
    flowers, twice = tenant.read_model("flowers"), tenant.read_model("twice")
    assert flowers["requests"] == before["requests"]
    assert flowers["compute_s"] > before["compute_s"]
    assert (twice["rows"], twice["compute_s"]) == (2 * REQUESTS, 0)


def test_the_command_line_shows_usage_and_makes_an_invoice(
    tenants: list[Tenant], shoal: ShoalCli, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nprices:\n- {models: twice, request: 1.5}\n- {request: 0.25, rows_1k: 10}\n")
    month = time.strftime("%Y-%m", time.gmtime())
    usage = json.loads(shoal("usage", "--by", "model", "--tenant", "wayne", "--json").stdout)

    invoice = shoal("invoice", "wayne", month, "--prices", str(prices), "--json")

    assert invoice.returncode == 0, invoice.stderr
    (row,) = [each for each in usage if each["model"] == "flowers"]
    content = json.loads(invoice.stdout)
    expected = 0.25 * row["requests"] + row["rows"] / 100
    assert float(content["total"]) == pytest.approx(expected)
    assert len(shoal("usage", "--by", "key", "--csv").stdout.splitlines()) >= 3


def test_the_clusters_hours_add_up(http: httpx.Client) -> None:
    def summarize() -> dict[str, Any]:
        content: dict[str, Any] = http.get("/api/v1/usage/capacity").json()
        return content

    before = summarize()
    time.sleep(4)
    after = summarize()

    parts = ("used", "idle", "training", "other", "free")
    total = after["cluster_core_hours"] - before["cluster_core_hours"]
    added = sum(after[f"{part}_core_hours"] - before[f"{part}_core_hours"] for part in parts)
    assert total > 0
    assert added == pytest.approx(total, rel=0.01)
    assert after["idle_core_hours"] > before["idle_core_hours"]
