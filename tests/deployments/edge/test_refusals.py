"""What HAProxy refuses for want of rights reaches the audit log, and nothing else does, whatever else is logged."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployments.access.audit.log import AuditUnavailable
from deployments.access.audit.reader import AuditReader
from deployments.access.audit.refusals import BURST_ROWS, Refusal
from deployments.edge import edge as edge_module
from deployments.edge.directory import Directory
from deployments.edge.state import GRPC, Member
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from deployments.settings import EdgeSettings, ServingSettings, TracingSettings
from tests.deployments.edge.local_edge import KEY, LocalEdge, build_route, run_edge

pytestmark = pytest.mark.anyio
WRONG = {"authorization": "Bearer wrong"}


@pytest.fixture(autouse=True)
def hand_on_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_module, "REFUSALS_INTERVAL_S", 0.05)


async def wait_for_refusals(edge: LocalEdge, count: int) -> list[Refusal]:
    async with asyncio.timeout(10):
        while sum(each.count for each in edge.directory.refusals) < count:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.15)
    return edge.directory.refusals


async def deny(request: Request) -> Response:
    return Response(403, b"{}")


MODES = {
    "quiet": {},
    "access log": {"edge": EdgeSettings(access_log=True)},
    "traces": {"tracing": TracingSettings(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=0.0)},
}


@pytest.mark.parametrize("mode", MODES)
async def test_refusals_are_handed_on_with_who_from_where_and_what(folder: Path, mode: str) -> None:
    settings = ServingSettings(home=folder, **MODES[mode])  # type: ignore[arg-type]
    async with run_edge(folder, settings=settings) as edge:
        await edge.remove(edge.replicas[-1])
        await edge.add("roses", HttpApp(deny, (), 1000))
        async with edge.open_http() as http:
            for path in ("/v2/models/flowers", "/v2/health/live", "/nothing"):
                assert (await http.get(path)).status_code == 200
            assert (await http.get("/v2/models/flowers/infer", headers=WRONG)).status_code == 401
            # A line that was cut would be none: neither JSON nor a refusal.
            assert (await http.post(f"/{'x' * 3000}", headers={"authorization": ""})).status_code == 401
            assert (await http.post("/v2/models/roses/predict", content=b"x")).status_code == 403
            assert (await http.request("BREW", "/tea")).status_code == 405
        refusals = await wait_for_refusals(edge, 3)
        log = await edge.read_log()

    assert sorted((each.caller, each.request, each.status) for each in refusals) == [
        ("", "GET /v2/models/flowers/infer", "401"),
        ("", f"POST /{'x' * 40}/…", "401"),
        ("default/tester", "POST /v2/models/roses/predict", "403"),
    ]
    assert {each.source for each in refusals} == {"127.0.0.1"}
    assert {each.problem.split(";")[0] for each in refusals} == {"unknown API key", "no API key", ""}
    assert ("{" in log) is (mode == "access log")
    assert "wrong" not in log
    assert KEY not in log


async def test_a_refused_call_of_grpc_is_one_too(folder: Path) -> None:
    async with run_edge(folder) as edge:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", metadata=(("authorization", "Bearer wrong"),))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        (refusal,) = await wait_for_refusals(edge, 1)

    assert (refusal.request, refusal.status) == ("gRPC /inference.GRPCInferenceService/ModelInfer", "401")


class DenyingGateway:
    """A gRPC server that refuses every method."""

    def service(self, details: Any) -> Any:
        """Called by grpc for each call."""

        async def deny(bodies: Any, context: Any) -> bytes:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the key does not allow it")
            return b""

        return grpc.stream_unary_rpc_method_handler(deny)


async def test_a_call_that_a_gateway_denies_is_one_too(folder: Path) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((DenyingGateway(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with run_edge(folder) as edge:
        member = Member("gateway", build_route(GRPC), f"127.0.0.1:{port}", protocol="grpc")
        await edge.directory.tell(members=(*edge.directory.state.members, member))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", metadata=(("authorization", f"Bearer {KEY}"),), wait_for_ready=True)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        (refusal,) = await wait_for_refusals(edge, 1)
    await server.stop(None)

    assert (refusal.request, refusal.status) == ("gRPC /inference.GRPCInferenceService/ModelInfer", "403")
    assert refusal.caller == "default/tester"


async def test_who_changes_the_platform_is_told_from_where(folder: Path) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:
        forged = {"x-shoal-source": "10.0.0.1"}
        keys = (await http.get("/api/v1/keys", headers=forged)).json()
        other = (await http.get("/v2/models/flowers", headers=forged)).json()

    assert dict(keys["headers"])["x-shoal-source"] == "127.0.0.1"
    assert "x-shoal-source" not in dict(other["headers"])


async def test_a_flood_of_refusals_is_few_rows_and_other_requests_go_on(folder: Path) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:

        async def flood(worker: int) -> int:
            for number in range(50):
                path = f"/v2/models/m{worker}-{number}/predict"
                assert (await http.get(path, headers=WRONG)).status_code == 401
            return 50

        flooding = asyncio.gather(*(flood(worker) for worker in range(10)))
        while not flooding.done():
            assert (await http.get("/v2/models/flowers")).status_code == 200
        sent = sum(await flooding)
        await asyncio.sleep(0.3)
        pending = edge.edge._refusals._pending.total()

    assert len(edge.directory.refusals) <= BURST_ROWS + 20
    assert sum(each.count for each in edge.directory.refusals) + pending == sent


async def test_the_directory_appends_a_row_for_each(directory: Directory, home: Path) -> None:
    refusals = [Refusal("", "10.0.0.1", "GET /docs", "401", "no API key", 7)]
    await directory.add_refusals(refusals)
    (row,) = AuditReader(directory._settings.platform).iterate_rows()

    with sqlite3.connect(home / "platform.db") as database:
        database.execute("ALTER TABLE audit_log RENAME TO another")
    database.close()
    with pytest.raises(AuditUnavailable):
        await directory.add_refusals(refusals)
    assert (row.content["source"], row.content["target"], row.content["after"]["count"]) == ("10.0.0.1", "GET /docs", 7)


async def test_refusals_wait_for_a_directory_that_is_away(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:
        edge.directory.is_away = True
        for _ in range(3):
            await http.get("/v2", headers=WRONG)
        await asyncio.sleep(0.3)
        assert edge.directory.refusals == []
        edge.directory.is_away = False
        refusals = await wait_for_refusals(edge, 3)

    assert sum(each.count for each in refusals) == 3
    assert "refusals are not in the audit log yet" in caplog.text
