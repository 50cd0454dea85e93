"""Requests that take Shoal's short way into a replica are counted as on Ray's own."""

import json
import re
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from cluster.local.record import Cluster, temp_dir
from cluster.settings import Settings
from tests.conftest import until

PATH = "/v2/models/flowers/predict"


@pytest.fixture
def metric(served: Cluster, settings: Settings) -> Iterator[Callable[..., float]]:
    """The sum of a metric's series with these labels, as Prometheus would scrape it."""
    file = temp_dir(settings.home) / "ray" / "prom_metrics_service_discovery.json"
    (group,) = json.loads(file.read_text())
    with httpx.Client(trust_env=False) as scraper:

        def now(name: str, **labels: str) -> float:
            total = 0.0
            for target in group["targets"]:
                for line in scraper.get(f"http://{target}/metrics").text.splitlines():
                    said = dict(re.findall(r'(\w+)="([^"]*)"', line))
                    if line.startswith(f"{name}{{") and labels.items() <= said.items():
                        total += float(line.rpartition(" ")[2])
            return total

        yield now


def test_every_request_is_counted_with_its_status(http: httpx.Client, metric: Callable[..., float]) -> None:
    def count(method: str, status: str) -> float:
        labels = {"application": "flowers", "method": method, "status_code": status}
        return metric("ray_serve_num_http_requests_total", **labels)

    # What other tests have sent may be on its way to the metrics; a verb of this test's own is counted exactly.
    fine = count("POST", "200")
    for _ in range(20):
        assert http.post(PATH, json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    for _ in range(3):
        assert http.patch(PATH).status_code == 405

    assert until(lambda: count("PATCH", "405") == 3, 30)
    assert until(lambda: count("POST", "200") >= fine + 20, 30)


def test_a_request_is_ongoing_until_its_caller_leaves(
    http: httpx.Client, served: Cluster, metric: Callable[..., float]
) -> None:
    def ongoing() -> float:
        return metric("ray_serve_replica_processing_queries", application="flowers")

    assert until(lambda: ongoing() == 0, 30)
    with socket.create_connection(("127.0.0.1", served.http_port)) as caller:
        key = http.headers["Authorization"]
        caller.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n".encode())
        caller.sendall(b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\nhalf of it")
        assert until(lambda: ongoing() == 1, 30)
    assert until(lambda: ongoing() == 0, 30)
