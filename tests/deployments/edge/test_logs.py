"""What the edge writes: nothing by default, or a line of JSON for each request, without keys and bodies."""

import json
from pathlib import Path

import pytest

from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from deployments.server.served import NODES_HEADER, Served
from deployments.settings import EdgeSettings, ServingSettings
from tests.deployments.edge.local_edge import AUTHORIZATION, KEY, SECRET, build_route, run_edge
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio


async def test_a_request_is_a_line_of_json_where_that_is_wanted(folder: Path) -> None:
    settings = ServingSettings(home=folder, edge=EdgeSettings(access_log=True))
    async with run_edge(folder, settings=settings) as edge:
        async with edge.open_http() as http:
            await http.post(
                "/v2/models/flowers/infer?secret=query", content=b"the body", headers={"x-request-id": "r1"}
            )
            await http.get("/v2/models/roses", headers={"authorization": "Bearer a wrong key"})
            await http.get('/odd"%22path%0a')
        async with open_raw(edge.http_port) as connection:
            await connection.request("GET", '/odd"\\path', b"", f"authorization: {AUTHORIZATION['authorization']}")
            await connection.request("GET", "/", b"", 'x-request-id: {"a":"b"}')
        log = await edge.read_log()

    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines] == [200, 401, 200, 200, 401]
    first, refused, quoted, raw, no_key = lines
    assert (first["request_id"], first["caller"], first["method"]) == ("r1", "default/tester", "POST")
    assert (first["path"], first["source"]) == ("/v2/models/flowers/infer", "127.0.0.1")
    assert first["server"] == "model.flowers/flowers-1"
    assert first["bytes_in"] > 8
    assert first["total_ms"] >= 0
    assert first["time_ms"] > 1_700_000_000_000
    assert refused["caller"] in ("", "-")
    assert quoted["path"] == '/odd"%22path%0a' or quoted["path"] == "/odd%22%22path%0a"
    assert raw["path"] == '/odd"\\path'
    assert no_key["request_id"] not in ("", "-")
    for secret in (KEY, "wrong key", SECRET, "the body", "secret=query"):
        assert secret not in log


async def test_a_line_says_which_version_answered(folder: Path) -> None:
    async def answer(request: Request) -> Response:
        return Response(200, b"{}", headers=((NODES_HEADER, b"a:1,b:3"),))

    settings = ServingSettings(home=folder, edge=EdgeSettings(access_log=True))
    served = Served("flowers", 7, "d" * 64)
    async with run_edge(folder, (), settings=settings, routes=(build_route("flowers"),)) as edge:
        await edge.add("flowers", HttpApp(answer, (), 1024), served=served)
        async with edge.open_http() as http:
            response = await http.get("/v2/models/flowers", headers={"x-shoal-model": "of the caller"})
            await http.get("/v2/models/flowers", headers={"authorization": "Bearer a wrong key"})
        log = await edge.read_log()

    answered, refused = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert (response.headers["x-shoal-model"], response.headers["x-shoal-digest"]) == ("flowers", "d" * 64)
    assert [answered[name] for name in ("model", "version", "digest", "nodes")] == ["flowers", "7", "d" * 64, "a:1,b:3"]
    assert {refused[name] for name in ("model", "version", "digest", "nodes")} <= {"", "-"}


async def test_what_is_no_request_is_a_line_of_json_too(folder: Path) -> None:
    settings = ServingSettings(home=folder, edge=EdgeSettings(access_log=True))
    async with run_edge(folder, settings=settings) as edge:
        async with open_raw(edge.http_port) as connection:
            await connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            await connection.read_rest_or_reset()
        log = await edge.read_log()

    for line in log.splitlines():
        if line.startswith("{"):
            assert json.loads(line)["status"] == 400


async def test_requests_are_not_logged_by_default(folder: Path) -> None:
    async with run_edge(folder) as edge:
        async with edge.open_http() as http:
            await http.get("/v2/models/flowers")
            await http.get("/v2/models/flowers", headers={"authorization": ""})
        log = await edge.read_log()

    assert "flowers" not in log
    assert "{" not in log
