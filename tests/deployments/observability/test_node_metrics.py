"""Node metrics: each node is one target, whether it has an edge or not, under a name of its own."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.observability.node_metrics import Node, NodeMetrics
from deployments.server.asgi import Scope
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from tests.deployments.local_server import make_app, run_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def give(value: Any) -> Callable[[], Awaitable[Any]]:
    async def fetch() -> Any:
        return value

    return fetch


async def fetch(metrics: NodeMetrics, path: str) -> httpx.Response:
    server = HttpServer(HttpApp(metrics, (), 1024))
    port = await server.start("127.0.0.1")
    headers = {"host": "edge.example:8000"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
        response = await client.get(path)
    await server.drain(1)
    return response


@pytest.mark.parametrize("has_tls", [False, True])
async def test_each_node_is_a_target(tmp_path: Path, has_tls: bool) -> None:
    nodes = [Node("here", "10.0.0.1", 1), Node("edge", "10.0.0.2", 1), Node("worker", "10.0.0.3", 1)]
    edges = {"here": has_tls, "edge": has_tls}
    metrics = NodeMetrics("here", 8000, tmp_path / "none.sock", give(nodes), give([]), give(edges))

    targets = (await fetch(metrics, "/metrics/targets")).json()

    found = [(each["targets"], each["labels"]["__metrics_path__"], each["labels"]["instance"]) for each in targets]
    assert found == [
        (["edge.example:8000"], "/metrics", "here"),
        (["10.0.0.2:8000"], "/metrics", "edge"),
        (["edge.example:8000"], "/metrics/nodes/worker", "worker"),
    ]
    assert {each["labels"].get("__scheme__") for each in targets} == {"https" if has_tls else None}


async def test_a_node_without_an_edge_is_read_through_this_one(tmp_path: Path) -> None:
    def answer(path: str, body: bytes, scope: Scope) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        return 200, b"ray_node_mem_total 1", []

    with run_server(make_app(answer)) as url:
        node = Node("worker", "127.0.0.1", int(url.rpartition(":")[2]))
        metrics = NodeMetrics("here", 8000, tmp_path / "none.sock", give([node]), give([]), give({}))
        text = (await fetch(metrics, "/metrics/nodes/worker")).text

    assert text.endswith("ray_node_mem_total 1\n")
    assert 'part="ray"} 1.0' in text
    assert 'part="edge"' not in text
    assert json.loads((await fetch(metrics, "/metrics/nodes/gone")).text)["error"]["code"] == "not_found"
