"""Requests that enter a replica over Shoal's fast path are counted as on Ray's own path."""

import json
import re
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from cluster.local.running_cluster import Cluster, temp_dir
from cluster.settings import Settings
from tests.conftest import wait_until

PATH = "/v2/models/flowers/predict"


@pytest.fixture
def scrape(serving_cluster: Cluster, settings: Settings) -> Iterator[Callable[..., float]]:
    """A function that scrapes a metric as Prometheus does, and sums its series with the given labels."""
    file = temp_dir(settings.home) / "ray" / "prom_metrics_service_discovery.json"
    (group,) = json.loads(file.read_text())
    with httpx.Client(trust_env=False) as scraper:

        def scrape_sum(name: str, **labels: str) -> float:
            total = 0.0
            for target in group["targets"]:
                for line in scraper.get(f"http://{target}/metrics").text.splitlines():
                    series_labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                    if line.startswith(f"{name}{{") and labels.items() <= series_labels.items():
                        total += float(line.rpartition(" ")[2])
            return total

        yield scrape_sum


def test_every_request_is_counted_with_its_status(http: httpx.Client, scrape: Callable[..., float]) -> None:
    def count(method: str, status: str) -> float:
        labels = {"application": "flowers", "method": method, "status_code": status}
        return scrape("ray_serve_num_http_requests_total", **labels)

    # Requests of other tests may not be in the metrics yet; only this test sends PATCH, whose count is exact.
    before = count("POST", "200")
    for _ in range(20):
        assert http.post(PATH, json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    for _ in range(3):
        assert http.patch(PATH).status_code == 405

    assert wait_until(lambda: count("PATCH", "405") == 3, 30)
    assert wait_until(lambda: count("POST", "200") >= before + 20, 30)


def test_a_request_counts_as_ongoing_until_its_caller_disconnects(
    http: httpx.Client, serving_cluster: Cluster, scrape: Callable[..., float]
) -> None:
    def count_ongoing() -> float:
        return scrape("ray_serve_replica_processing_queries", application="flowers")

    assert wait_until(lambda: count_ongoing() == 0, 30)
    with socket.create_connection(("127.0.0.1", serving_cluster.http_port)) as caller:
        key = http.headers["Authorization"]
        caller.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n".encode())
        caller.sendall(b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\nincomplete")
        assert wait_until(lambda: count_ongoing() == 1, 30)
    assert wait_until(lambda: count_ongoing() == 0, 30)
