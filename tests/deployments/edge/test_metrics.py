"""Metrics at the edge: HAProxy's own beside the replicas', also after a reload; what is missing is said."""

from pathlib import Path

import pytest

from deployments.edge.state import Member
from deployments.scaling.report import ReplicaReport
from tests.deployments.edge.local_edge import AUTHORIZATION, SECRET, build_route, run_edge

pytestmark = pytest.mark.anyio


async def test_a_nodes_metrics_are_one_document_before_and_after_a_reload(folder: Path) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:
        member = Member("r1", build_route("flowers"), "127.0.0.1:1", 3, "fp32")
        elsewhere = ReplicaReport(1.0, 0, {200: 9}, (), node_id="another node")
        edge.directory.reports = [(member, ReplicaReport(1.0, 0, {200: 5}, ())), (member, elsewhere)]
        await http.get("/v2/models/flowers")

        first = await http.get("/metrics")
        pids = edge.pids
        await edge.directory.tell(routes=(*edge.directory.state.routes, build_route("tulips")))
        second = await http.get("/metrics")

        assert edge.pids[-1] not in pids
    for response in (first, second):
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'haproxy_backend_http_responses_total{proxy="model.flowers",code="2xx"}' in response.text
        assert 'shoal_scrape_part_up{part="edge"} 1.0' in response.text
        # Ray does not run here.
        assert 'shoal_scrape_part_up{part="ray"} 0.0' in response.text
        assert 'status="200",version="3"} 5.0' in response.text
        assert "9.0" not in response.text.partition("# TYPE shoal_request_errors_total")[0]
        assert SECRET not in response.text
    assert "tulips" in second.text


async def test_paths_below_metrics_need_a_key_and_exist(folder: Path) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:
        for path in ("/metrics", "/metrics/targets", "/metrics/nodes/x"):
            assert (await http.get(path, headers=AUTHORIZATION | {"authorization": ""})).status_code == 401
        assert (await http.get("/metrics/targets")).json() == []
        assert (await http.get("/metrics/nodes/x")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405
