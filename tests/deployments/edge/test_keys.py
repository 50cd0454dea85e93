"""The edge checks the caller's key before a replica sees a request."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.deployments.callers import TESTER, digest, encode_caller
from tests.deployments.edge.local_edge import AUTHORIZATION, KEY, SECRET, LocalEdge, run_edge
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio

MODEL_PATHS = ["/predict", "/infer", "/ready", "", "/nothing"]
OTHER_PATHS = [
    "/",
    "/api/v1/models",
    "/metrics",
    "/v2",
    "/v2/models/unknown/infer",
    "/-/routes",
    "/-/healthz",
    "/nothing",
]
PATHS = [f"/v2/models/flowers{path}" for path in MODEL_PATHS] + OTHER_PATHS
PAGES = ["/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"]
NO_PAGES = ["/docs/", "/docs/x", "//docs", "/openapi.json/", "/v2/models/docs", "/static-offline-docs", "/DOCS"]


def list_challenges(response: httpx.Response) -> list[str]:
    return [value.partition(" ")[0] for value in response.headers.get_list("www-authenticate")]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Bearer  {digest(KEY)}",
        f"Bearer {digest(KEY)}",
        "Basic !!!",
        "Basic d3Jvbmc6d3Jvbmc=",
        f"Token {KEY}",
        KEY,
    ],
)
async def test_every_path_requires_a_valid_key(edge: LocalEdge, value: str | None) -> None:
    async with edge.open_http(headers={} if value is None else {"authorization": value}) as http:
        for path in PATHS:
            for method in ("GET", "POST"):
                response = await http.request(method, path)
                assert (path, response.status_code) == (path, 401)
                assert response.headers.get_list("www-authenticate") == ['Bearer realm="shoal"']
                assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_request_with_a_key_reaches_its_replica(edge: LocalEdge, scheme: str) -> None:
    async with edge.open_http(headers={"authorization": f"{scheme} {KEY}"}) as http:
        response = await http.get("/v2/models/flowers/ready")

    assert (response.status_code, response.json()["replica"]) == (200, "flowers-1")


async def test_an_empty_key_is_refused_even_if_its_digest_is_known(folder: Path) -> None:
    async with run_edge(folder, keys={digest(""): encode_caller()}) as edge:
        for value in ("", "Bearer", "Bearer ", "Basic", "Basic Og==", "Basic YW55Og=="):
            async with open_raw(edge.http_port) as connection:
                response = await connection.request("GET", "/docs", b"", f"authorization: {value}")
                assert response.status == 401


async def test_two_keys_in_one_request_are_no_key_that_is_unknown(edge: LocalEdge) -> None:
    async with edge.open_http(headers=[("authorization", "Bearer wrong"), ("authorization", f"Bearer {KEY}")]) as http:
        first_wrong = await http.get("/v2")

    assert first_wrong.status_code in (200, 401)
    if first_wrong.status_code == 200:
        # Whichever counts, the replica gets none of them.
        assert not [name for name, _ in first_wrong.json()["headers"] if name == "authorization"]


@pytest.mark.parametrize("path", [*MODEL_PATHS, "/example"])
async def test_a_key_as_a_password_does_not_count(edge: LocalEdge, path: str) -> None:
    async with edge.open_http(headers={}, auth=("anybody", KEY)) as http:
        response = await http.post(f"/v2/models/flowers{path}")

    assert response.status_code == 401
    assert "are for the page /docs alone" in response.text


@pytest.mark.parametrize("path", [*PAGES, *NO_PAGES, "/api/v1/models", "/v2"])
async def test_a_browser_may_send_the_key_as_a_password_for_the_page(edge: LocalEdge, path: str) -> None:
    async with edge.open_http(headers={}) as http:
        with_key = await http.get(path, auth=("anybody", KEY))
        with_wrong_key = await http.get(path, auth=("anybody", "wrong"))
        with_key_as_user = await http.get(path, auth=(KEY, ""))
        without_key = await http.get(path)

    is_page = path in PAGES
    assert with_key.status_code == (200 if is_page else 401)
    assert {each.status_code for each in (with_wrong_key, with_key_as_user, without_key)} == {401}
    # Two fields, Basic first: with both in one, Bearer first, Chromium asks for no password.
    assert list_challenges(without_key) == (["Basic", "Bearer"] if is_page else ["Bearer"])


async def test_health_needs_no_key(edge: LocalEdge) -> None:
    async with edge.open_http(headers={}) as http:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/health/started"):
            response = await http.get(path)
            assert response.status_code == 200
            caller = [value for name, value in response.json()["headers"] if name == "x-shoal-caller"]
            assert caller in ([], [""])
        for path in ("/v2/health/live/", "/v2/health", "/v2/health/live/x", "//v2/health/live", "/V2/health/live"):
            assert (await http.get(path)).status_code == 401


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no API key; send the header Authorization: Bearer KEY"),
        ("Bearer x", "unknown API key; send a valid one"),
        (KEY, "the header Authorization has no Bearer before the key; send Authorization: Bearer KEY"),
        (f"Token {KEY}", "the header Authorization has no Bearer before the key"),
        ("", "no API key"),
        ("Bearer", "no API key"),
    ],
)
async def test_a_refusal_has_the_form_of_its_path(edge: LocalEdge, value: str | None, message: str) -> None:
    headers = {"x-request-id": "r1"} | ({} if value is None else {"authorization": value})
    async with edge.open_http(headers=headers) as http:
        for path in ("/v2", "/v2/models/flowers/infer", "/v2/models/flowers"):
            response = await http.post(path)
            assert response.json().keys() == {"error"}
            assert response.json()["error"].startswith(message)
            assert response.headers["x-request-id"] == "r1"
        for path in ("/v2/models/flowers/predict", "/v2/models/flowers/example", "/api/v1/models", "/docs"):
            error = (await http.post(path)).json()["error"]
            assert error | {"message": ""} == {"code": "unauthenticated", "message": "", "request_id": "r1"}
            assert error["message"].startswith(message)


async def test_a_replica_learns_the_callers_name_and_not_its_key(http: httpx.AsyncClient) -> None:
    content = (await http.get("/v2/models/flowers/ready")).json()

    headers = dict(content["headers"])
    assert headers["x-shoal-caller"] == TESTER
    assert headers["x-shoal-edge"] == SECRET
    assert "authorization" not in headers
    assert KEY not in str(content)


async def test_a_caller_cannot_say_who_it_is(edge: LocalEdge) -> None:
    odd = {"x-shoal-caller": "admin", "X-Shoal-Edge": "x", "x-shoal-new": "y"}
    async with edge.open_http(headers=AUTHORIZATION | odd) as http:
        headers = (await http.get("/v2/models/flowers/ready")).json()["headers"]
    async with edge.open_http(headers=odd) as http:
        public = (await http.get("/v2/health/live")).json()["headers"]

    for each in (headers, public):
        assert [value for name, value in each if name == "x-shoal-edge"] == [SECRET]
        assert not [value for name, value in each if value in ("admin", "y")]
    assert [value for name, value in headers if name == "x-shoal-caller"] == [TESTER]


async def test_a_connection_does_not_remember_its_last_key(edge: LocalEdge) -> None:
    async with edge.open_http(limits=httpx.Limits(max_connections=1)) as http:
        assert (await http.get("/v2")).status_code == 200
        assert (await http.get("/v2", headers={"authorization": "Bearer x"})).status_code == 401
        assert (await http.get("/v2", headers={"authorization": ""})).status_code == 401
        assert (await http.get("/v2")).status_code == 200


async def test_metrics_need_a_key_and_have_prometheus_form(edge: LocalEdge, http: httpx.AsyncClient) -> None:
    response = await http.get("/metrics")

    assert response.status_code == 200
    assert 'haproxy_frontend_http_requests_total{proxy="http"}' in response.text
    assert 'haproxy_server_status{proxy="model.flowers",server="flowers-1"' in response.text
    assert SECRET not in response.text


async def get_status(edge: LocalEdge, key: str) -> int:
    async with edge.open_http(headers={"authorization": f"Bearer {key}"}) as http:
        return (await http.get("/v2")).status_code


async def test_keys_come_and_go_without_a_reload(folder: Path) -> None:
    async with run_edge(folder) as edge:
        pids, keys = edge.pids, dict(edge.directory.state.keys)

        await edge.directory.tell(keys={**keys, digest("second"): encode_caller("default/other")})
        assert [await get_status(edge, key) for key in (KEY, "second")] == [200, 200]
        await edge.directory.tell(keys={digest("second"): encode_caller("acme/renamed")})
        assert [await get_status(edge, key) for key in (KEY, "second")] == [401, 200]
        async with edge.open_http(headers={"authorization": "Bearer second"}) as http:
            assert ["x-shoal-caller", encode_caller("acme/renamed")] in (await http.get("/v2")).json()["headers"]
        await edge.directory.tell(keys={})
        assert await get_status(edge, "second") == 401
        await edge.directory.tell(keys=keys)
        assert await get_status(edge, KEY) == 200

        assert edge.pids == pids


async def test_a_key_that_is_deleted_already_needs_no_reload(folder: Path) -> None:
    async with run_edge(folder) as edge:
        pids = edge.pids
        # As watch_keys.lua does where it reads the file before the edge's command comes.
        await edge.haproxy.run_commands([f"del map {folder}/edge/keys.map {digest(KEY)}"])

        await edge.directory.tell(keys={})

        assert edge.pids == pids
        assert await get_status(edge, KEY) == 401


async def test_a_key_is_revoked_in_the_process_before_a_reload_too(folder: Path) -> None:
    async with (
        run_edge(folder) as edge,
        edge.open_http() as old,
        open_raw(edge.http_port) as idle,
        open_raw(edge.http_port) as new_caller,
    ):
        assert (await idle.request("GET", "/v2", b"", f"authorization: Bearer {KEY}")).status == 200
        assert (await new_caller.request("GET", "/v2")).status == 401
        may_end = asyncio.Event()
        sending = asyncio.ensure_future(old.post("/v2/models/flowers/infer", content=send_until(may_end)))
        await asyncio.sleep(0.3)
        await edge.add("new-model")
        assert len(edge.pids) == 2
        await edge.directory.tell(keys={digest("other"): encode_caller("default/other")})

        assert await get_status(edge, KEY) == 401
        assert await get_status(edge, "other") == 200
        await asyncio.sleep(1)
        # The old process leaves an idle connection one more request.
        assert (await idle.request("GET", "/v2", b"", f"authorization: Bearer {KEY}")).status == 401
        assert (await new_caller.request("GET", "/v2", b"", "authorization: Bearer other")).status == 200
        assert len(edge.pids) == 2
        # What was let in goes on.
        may_end.set()
        assert (await sending).status_code == 200


async def send_until(event: asyncio.Event) -> AsyncIterator[bytes]:
    # More than HAProxy waits for before it sends a request on.
    yield b"x" * 40_000
    await event.wait()
    yield b"x"
