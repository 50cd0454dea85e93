"""Metrics: each request is counted and timed; one address for each node, with a key; every panel has data.

A real Prometheus scrapes the cluster with the configuration that `shoal monitoring` writes.
"""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from cluster.shoal import Shoal
from tests.conftest import ShoalCli, publish_and_deploy, wait_until
from tests.e2e.load import Load
from tests.prometheus import ALERTS, list_panels, run_prometheus
from tests.small_bundles import save_text_generator
from training.registry.model_registry import Registry

PATH = "/v2/models/flowers/predict"


@pytest.fixture
def scrape(http: httpx.Client) -> Iterator[Callable[..., float]]:
    """A function that scrapes a metric at the edge, and sums its series with the given labels."""

    def scrape_sum(name: str, **labels: str) -> float:
        total = 0.0
        for line in http.get("/metrics").text.splitlines():
            series_labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if line.startswith(f"{name}{{") and labels.items() <= series_labels.items():
                total += float(line.rpartition(" ")[2])
        return total

    return scrape_sum


def test_every_request_is_counted_with_its_status(http: httpx.Client, scrape: Callable[..., float]) -> None:
    def count(status: str) -> float:
        return scrape("shoal_requests_total", model="flowers", version="1", source="edge", status=status)

    def count_within(bound: str) -> float:
        return scrape("shoal_request_duration_seconds_bucket", model="flowers", source="edge", le=bound)

    # Only this test sends DELETE and calls by handle.
    before, refused_before, timed_before = count("200"), count("405"), count_within("+Inf")
    for _ in range(20):
        assert http.post(PATH, json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    for _ in range(3):
        assert http.delete(PATH).status_code == 405
    for _ in range(2):
        http.post("/api/v1/models/flowers/predict", json={"inputs": [[1, 2, 3, 4]]})

    assert wait_until(lambda: count("405") == refused_before + 3, 30)
    assert wait_until(lambda: count("200") >= before + 20, 30)
    assert wait_until(lambda: count_within("+Inf") >= timed_before + 23, 30)
    assert 0 < count_within("0.1024") <= count_within("+Inf")
    assert scrape("shoal_request_errors_total", model="flowers", code="method_not_allowed") >= 3
    assert wait_until(lambda: scrape("shoal_requests_total", model="flowers", source="handle", status="200") >= 2, 30)
    assert scrape("shoal_pass_rows_sum", model="flowers") >= 22
    assert 0 < scrape("shoal_replica_cold_start_seconds", model="flowers") < 120


def test_a_request_counts_as_ongoing_until_its_caller_disconnects(
    http: httpx.Client, serving_cluster: Cluster, scrape: Callable[..., float]
) -> None:
    def count_ongoing() -> float:
        return scrape("shoal_ongoing_requests", model="flowers")

    assert wait_until(lambda: count_ongoing() == 0, 30)
    with socket.create_connection(("127.0.0.1", serving_cluster.http_port)) as caller:
        key = http.headers["Authorization"]
        caller.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n".encode())
        # More than the edge waits for before it sends a request on.
        head = b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        caller.sendall(head + b"[" + b" " * 50_000)
        assert wait_until(lambda: count_ongoing() == 1, 30)
    assert wait_until(lambda: count_ongoing() == 0, 30)


def test_one_address_has_the_metrics_of_replicas_of_the_edge_and_of_ray(
    http: httpx.Client, serving_cluster: Cluster
) -> None:
    assert httpx.get(f"{serving_cluster.url}/metrics", trust_env=False).status_code == 401
    assert httpx.get(f"{serving_cluster.url}/metrics/targets", trust_env=False).status_code == 401

    text = http.get("/metrics").text
    (target,) = http.get("/metrics/targets").json()

    for part in ("edge", "replicas", "ray"):
        assert f'shoal_scrape_part_up{{part="{part}"}} 1.0' in text
    assert 'haproxy_backend_http_responses_total{proxy="model.flowers",code="2xx"}' in text
    assert "ray_node_mem_total{" in text
    assert target["targets"] == [serving_cluster.url.removeprefix("http://")]
    assert target["labels"]["__metrics_path__"] == "/metrics"
    node = http.get(f"/metrics/nodes/{target['labels']['instance']}")
    assert "shoal_replica_info" in node.text
    assert http.get("/metrics/nodes/nowhere").status_code == 404


def test_every_panel_of_every_dashboard_has_data_and_every_alert_is_evaluated(
    shoal: ShoalCli, serving_cluster: Cluster, settings: Settings, http: httpx.Client, tmp_path: Path
) -> None:
    save_text_generator(tmp_path / "bundle", "scribe")
    publish_and_deploy(settings, serving_cluster, tmp_path / "bundle")
    save_text_generator(tmp_path / "second", "scribe")
    second = Registry(settings).publish(tmp_path / "second")
    Shoal(settings).deploy_canary(second, steps=(10, 100), shadow_percent=90, min_step_s=3600)
    result = shoal("monitoring", str(tmp_path / "monitoring"), "--json")
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "monitoring" / "alerts.yaml") in json.loads(result.stdout)["files"]

    with (
        run_prometheus(tmp_path / "monitoring") as prometheus,
        Load(settings, serving_cluster, "flowers", callers=2),
    ):
        missing: list[str] = []

        def has_data() -> bool:
            http.post("/v2/models/scribe/predict", json={"inputs": ["To be", "or"], "max_tokens": 3})
            http.delete(PATH)
            missing[:] = [name for name, expression in list_panels() if not _has_value(prometheus.query(expression))]
            return not missing

        wait_until(has_data, 60)
        assert not missing
        assert [target["health"] for target in prometheus.list_targets()] == ["up"]
        rules = prometheus.list_rules()
        assert len(rules) == ALERTS.read_text().count("- alert:")
        assert {rule["health"] for rule in rules} == {"ok"}
    assert shoal("rollout", "abort", "scribe").returncode == 0


def _has_value(series: list[dict[str, object]]) -> bool:
    return any(each["value"][1] != "NaN" for each in series)  # type: ignore[index]
