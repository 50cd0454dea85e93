"""Metrics: each request is counted, timed and, while it is inside, shown; the edge has statistics of its own."""

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
        return scrape("ray_shoal_http_requests_total", application="flowers", method=method, status=status)

    def count_within(bound: str) -> float:
        return scrape("ray_shoal_http_request_latency_seconds_bucket_total", application="flowers", le=bound)

    # Requests of other tests may not be in the metrics yet; only this test sends DELETE, whose count is exact.
    before, timed_before = count("POST", "200"), count_within("+Inf")
    for _ in range(20):
        assert http.post(PATH, json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    for _ in range(3):
        assert http.delete(PATH).status_code == 405

    assert wait_until(lambda: count("DELETE", "405") == 3, 30)
    assert wait_until(lambda: count("POST", "200") >= before + 20, 30)
    assert wait_until(lambda: count_within("+Inf") >= timed_before + 23, 30)
    assert 0 < count_within("0.1") <= count_within("60") <= count_within("+Inf")


def test_a_request_counts_as_ongoing_until_its_caller_disconnects(
    http: httpx.Client, serving_cluster: Cluster, scrape: Callable[..., float]
) -> None:
    def count_ongoing() -> float:
        return scrape("ray_shoal_ongoing_requests", application="flowers")

    assert wait_until(lambda: count_ongoing() == 0, 30)
    with socket.create_connection(("127.0.0.1", serving_cluster.http_port)) as caller:
        key = http.headers["Authorization"]
        caller.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n".encode())
        # More than the edge waits for before it sends a request on.
        head = b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        caller.sendall(head + b"[" + b" " * 50_000)
        assert wait_until(lambda: count_ongoing() == 1, 30)
    assert wait_until(lambda: count_ongoing() == 0, 30)


def test_the_edge_has_statistics_for_whoever_has_a_key(http: httpx.Client, serving_cluster: Cluster) -> None:
    assert httpx.get(f"{serving_cluster.url}/metrics", trust_env=False).status_code == 401

    text = http.get("/metrics").text

    assert 'haproxy_backend_http_responses_total{proxy="model.flowers",code="2xx"}' in text
