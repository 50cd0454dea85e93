"""Requests that take Shoal's short way into a replica are counted as on Ray's own."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from cluster import lifecycle
from cluster.lifecycle import Cluster
from cluster.settings import Settings

PATH = "/v2/models/flowers/predict"


@pytest.fixture
def metric(served: Cluster, settings: Settings) -> Iterator[Callable[..., float]]:
    """The sum of a metric's series with these labels, as Prometheus would scrape it."""
    file = lifecycle.temp_dir(settings.home) / "ray" / "prom_metrics_service_discovery.json"
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


def eventually(value: Callable[[], float], wanted: float, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while (found := value()) != wanted:
        assert time.monotonic() < deadline, f"{found}, not {wanted}"
        time.sleep(0.5)


def test_every_request_is_counted_with_its_status(http: httpx.Client, metric: Callable[..., float]) -> None:
    def count(status: str) -> float:
        return metric("ray_serve_num_http_requests_total", application="flowers", status_code=status, method="POST")

    time.sleep(3)  # what other tests sent is on its way to the metrics
    fine, wrong = count("200"), count("422")
    for _ in range(20):
        assert http.post(PATH, json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    for _ in range(3):
        assert http.post(PATH, json={"inputs": [[1, 2]]}).status_code == 422

    eventually(lambda: count("200"), fine + 20)
    eventually(lambda: count("422"), wrong + 3)


def test_a_request_is_ongoing_until_its_caller_leaves(
    http: httpx.Client, served: Cluster, metric: Callable[..., float]
) -> None:
    def ongoing() -> float:
        return metric("ray_serve_replica_processing_queries", application="flowers")

    eventually(ongoing, 0)
    with socket.create_connection(("127.0.0.1", served.http_port)) as caller:
        key = http.headers["Authorization"]
        caller.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n".encode())
        caller.sendall(b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\nhalf of it")
        eventually(ongoing, 1)
    eventually(ongoing, 0)
