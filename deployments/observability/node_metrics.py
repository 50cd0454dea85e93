"""Node metrics: one scrape address for each node, at the edge and behind its key check.

Request walk: caller -> HAProxy -> [node_metrics.py] -> exposition.py
It runs in the edge's own process, which no other request passes through. `/metrics` is of this edge's node: HAProxy's
own metrics, those of the node's replicas, and Ray's, one after the other. `/metrics/nodes/ID` is the same of a node
without an edge; `/metrics/targets` lists all nodes for Prometheus:
https://prometheus.io/docs/prometheus/latest/http_sd/. A part that does not answer is left out, and said to be.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ray
from ray.exceptions import RayError

from deployments.edge.state import Split
from deployments.errors import MethodNotAllowed, NotFound
from deployments.observability.exposition import Reports, encode_metrics
from deployments.server.request import Request, Response

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
# Prometheus gives a target up after 10 s by default.
PART_TIMEOUT_S = 5.0
NODES_INTERVAL_S = 5.0
EDGE_PART, REPLICAS_PART, RAY_PART = "edge", "replicas", "ray"
TARGETS_PATH, NODES_PREFIX = "/metrics/targets", "/metrics/nodes/"
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's.
        address: of its host.
        metrics_port: of Ray's exporter there.
    """

    id: str
    address: str
    metrics_port: int


class NodeList:
    """The nodes that are alive, from Ray's public list; where that does not answer, the last one stands."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._fetched_s = float("-inf")

    async def fetch(self) -> list[Node]:
        """The nodes, of NODES_INTERVAL_S ago at most."""
        if time.monotonic() - self._fetched_s > NODES_INTERVAL_S:
            try:
                async with asyncio.timeout(PART_TIMEOUT_S):
                    self._nodes = await asyncio.to_thread(_list_nodes)
                self._fetched_s = time.monotonic()
            except (RayError, TimeoutError, ConnectionError) as error:
                logger.warning("Ray does not list its nodes: %s", error)
        return self._nodes


def _list_nodes() -> list[Node]:
    if not ray.is_initialized():
        raise ConnectionError("this process is not Ray's")
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["MetricsExportPort"])
        for node in ray.nodes()
        if node["Alive"]
    ]


class NodeMetrics:
    """The paths below /metrics, as a handler."""

    def __init__(
        self,
        node_id: str,
        http_port: int,
        exporter_socket: Path,
        fetch_nodes: Callable[[], Awaitable[list[Node]]],
        fetch_reports: Callable[[], Awaitable[Reports]],
        fetch_edges: Callable[[], Awaitable[Mapping[str, bool]]],
        get_splits: Callable[[], Sequence[Split]] = tuple,
    ) -> None:
        """Make the handler.

        Args:
            node_id: of this edge's node.
            http_port: of every edge.
            exporter_socket: of HAProxy's exporter on this node.
            fetch_nodes: the nodes of the cluster.
            fetch_reports: what all replicas have done.
            fetch_edges: ids of the nodes with an edge, and whether it speaks TLS.
            get_splits: as this edge has them.
        """
        self._node_id, self._http_port, self._get_splits = node_id, http_port, get_splits
        self._fetch_nodes, self._fetch_reports, self._fetch_edges = fetch_nodes, fetch_reports, fetch_edges
        # Kept open, a connection would go to the process before a reload once more.
        transport = httpx.AsyncHTTPTransport(uds=str(exporter_socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._edge = httpx.AsyncClient(transport=transport, base_url="http://edge", timeout=PART_TIMEOUT_S)
        self._http = httpx.AsyncClient(timeout=PART_TIMEOUT_S, trust_env=False)

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        if request.method != "GET":
            raise MethodNotAllowed(request.method, "GET")
        path = request.path
        if path == TARGETS_PATH:
            targets = await self._list_targets(request.get_header(b"host").decode("latin-1"))
            return Response(200, json.dumps(targets).encode())
        node_id = self._node_id if path == "/metrics" else path.removeprefix(NODES_PREFIX)
        node = next((each for each in await self._fetch_nodes() if each.id == node_id), None)
        if node is None and path != "/metrics":
            raise NotFound(f"no node {node_id!r} is alive; GET {TARGETS_PATH} lists them")
        return Response(200, await self._collect(node_id, node), CONTENT_TYPE)

    async def close(self) -> None:
        """Close the connections."""
        await self._edge.aclose()
        await self._http.aclose()

    async def _collect(self, node_id: str, node: Node | None) -> bytes:
        fetches: dict[str, Awaitable[Any]] = {REPLICAS_PART: self._fetch_reports(), RAY_PART: self._fetch_ray(node)}
        if node_id == self._node_id:
            fetches[EDGE_PART] = _fetch_text(self._edge, "/metrics")
        results = dict(zip(fetches, await asyncio.gather(*map(_attempt, fetches.values())), strict=True))
        reports = [each for each in results[REPLICAS_PART] or () if each[1].node_id == node_id]
        parts_up = {part: result is not None for part, result in results.items()}
        own = encode_metrics(reports, parts_up, self._get_splits() if node_id == self._node_id else ())
        return b"".join([own, results.get(EDGE_PART) or b"", results[RAY_PART] or b""])

    async def _fetch_ray(self, node: Node | None) -> bytes:
        if node is None:
            raise ConnectionError("Ray does not list this node")
        return await _fetch_text(self._http, f"http://{node.address}:{node.metrics_port}/metrics")

    async def _list_targets(self, host: str) -> list[dict[str, Any]]:
        """A target for each node: an edge's own address, or this edge as the caller knows it."""
        edges = await _attempt(self._fetch_edges()) or {}
        targets = []
        for node in await self._fetch_nodes():
            has_own_edge = node.id in edges and node.id != self._node_id
            path = "/metrics" if node.id in edges or node.id == self._node_id else NODES_PREFIX + node.id
            # By its own name: several targets may have this edge's address.
            labels = {"__metrics_path__": path, "instance": node.id, "node": node.address}
            if edges.get(node.id if has_own_edge else self._node_id):
                labels["__scheme__"] = "https"
            address = f"{node.address}:{self._http_port}" if has_own_edge else host
            targets.append({"targets": [address], "labels": labels})
        return targets


async def _fetch_text(client: httpx.AsyncClient, url: str) -> bytes:
    response = await client.get(url)
    response.raise_for_status()
    return response.content if response.content.endswith(b"\n") else response.content + b"\n"


async def _attempt(fetch: Awaitable[Any]) -> Any:
    """What a part answers in time; None where it does not."""
    try:
        async with asyncio.timeout(PART_TIMEOUT_S):
            return await fetch
    except (httpx.HTTPError, RayError, OSError, ValueError, TimeoutError) as error:
        logger.warning("a part of the metrics is missing: %s: %s", type(error).__name__, error)
        return None
