"""What the edge does with each request: its id, its method, its route, its errors."""

import asyncio
import contextlib
import re
from pathlib import Path

import httpx
import pytest

from deployments.edge.state import CONTROL
from deployments.settings import EdgeSettings, ServingSettings
from tests.deployments.edge.local_edge import AUTHORIZATION, KEY, MAX_BODY_BYTES, LocalEdge, run_edge
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
FIELD = f"authorization: Bearer {KEY}"


def get_header(content: dict, name: str) -> list[str]:  # type: ignore[type-arg]
    return [value for each, value in content["headers"] if each == name]


@pytest.mark.parametrize("request_id", ["r1", "a.b_c:d/e+f=g@h-i", "x" * 128])
async def test_a_request_keeps_its_id(http: httpx.AsyncClient, request_id: str) -> None:
    response = await http.get("/v2/models/flowers", headers={"x-request-id": request_id})

    assert response.headers.get_list("x-request-id") == [request_id]
    assert get_header(response.json(), "x-request-id") == [request_id]


@pytest.mark.parametrize("request_id", [None, "", "x" * 129, "a b", 'a"b', "<b>", "{}", "a%0d%0ab", "ä".encode()])
async def test_an_odd_id_is_replaced(http: httpx.AsyncClient, request_id: str | bytes | None) -> None:
    headers = {} if request_id is None else {"x-request-id": request_id}

    response = await http.get("/v2/models/flowers", headers=headers)  # type: ignore[arg-type]

    (new_id,) = response.headers.get_list("x-request-id")
    assert UUID.fullmatch(new_id)
    assert get_header(response.json(), "x-request-id") == [new_id]


async def test_each_request_is_counted_by_an_id_that_no_caller_chooses(http: httpx.AsyncClient) -> None:
    headers = {"x-request-id": "r1", "x-shoal-event": "mine"}

    events = [
        get_header((await http.get("/v2/models/flowers", headers=headers)).json(), "x-shoal-event") for _ in range(3)
    ]

    assert len({event for (event,) in events}) == 3
    assert all(UUID.fullmatch(event) for (event,) in events)


@pytest.mark.parametrize("request_id", ["r1", None])
async def test_the_edges_own_errors_have_the_requests_id(edge: LocalEdge, request_id: str | None) -> None:
    headers = {} if request_id is None else {"x-request-id": request_id}
    async with edge.open_http() as http:
        responses = [
            await http.get("/api/v1/models", headers=headers | {"authorization": ""}),
            await http.request("TRACE", "/api/v1/models", headers=headers),
            await post_too_much(http, "/v2/models/flowers/predict", headers=headers),
        ]

    assert [response.status_code for response in responses] == [401, 405, 413]
    for response in responses:
        (sent_id,) = response.headers.get_list("x-request-id")
        assert response.json()["error"]["request_id"] == sent_id
        assert sent_id == request_id if request_id else UUID.fullmatch(sent_id)


@pytest.mark.parametrize(
    ("path", "replica"),
    [
        ("/v2/models/flowers", "flowers-1"),
        ("/v2/models/flowers/versions/3/infer", "flowers-1"),
        ("/v2/models/roses/predict", "roses-2"),
        ("/", "shoal-control-0"),
        ("/v2", "shoal-control-0"),
        ("/v2/models", "shoal-control-0"),
        ("/v2/models/", "shoal-control-0"),
        ("/v2/models/tulips/infer", "shoal-control-0"),
        ("/v2/models/flowersx", "shoal-control-0"),
        ("/v2/models/Flowers", "shoal-control-0"),
        ("/api/v1/models/flowers/predict", "shoal-control-0"),
        ("/docs", "shoal-control-0"),
        # What a replica would decode to another path than the edge has seen.
        ("//v2/models/flowers", "shoal-control-0"),
        ("/v2//models/flowers", "shoal-control-0"),
        ("/v2/models//flowers", "shoal-control-0"),
        ("/v2/%6dodels/flowers", "shoal-control-0"),
        ("/v2/models/%66lowers", "shoal-control-0"),
        ("/v2/models/flowers%2Finfer", "shoal-control-0"),
        ("/v2/models/../models/flowers", "shoal-control-0"),
        ("/v2/models/%2e%2e/flowers", "shoal-control-0"),
        ("/x/../v2/models/flowers", "shoal-control-0"),
        ("/v2/models/flowers/../roses/infer", "flowers-1"),
        ("/v2/models/flowers/%2e%2e/roses/infer", "flowers-1"),
        ("/v2/models/flowers;x/infer", "shoal-control-0"),
        ("/v2/models/flowers?name=/v2/models/roses", "flowers-1"),
        ("http://test/v2/models/flowers/infer", "flowers-1"),
        ("http://test/v2/models/flowers/../roses/infer", "flowers-1"),
    ],
)
async def test_a_path_reaches_its_own_application_as_it_was_sent(edge: LocalEdge, path: str, replica: str) -> None:
    async with open_raw(edge.http_port) as connection:
        response = await connection.request("GET", path, b"", FIELD)

    content = httpx.Response(200, content=response.body).json()
    assert (response.status, content["replica"]) == (200, replica)
    assert path.partition("?")[0].endswith(content["path"])


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "FOO", "get", "M-SEARCH"])
async def test_a_method_that_nothing_has_is_refused(edge: LocalEdge, method: str) -> None:
    for path in ("/v2/models/flowers/infer", "/api/v1/models"):
        async with open_raw(edge.http_port) as connection:
            response = await connection.request(method, path, b"", FIELD)

        assert (response.status, response["allow"]) == (405, "GET, HEAD, POST, OPTIONS")
        error = httpx.Response(200, content=response.body).json()["error"]
        assert "not allowed" in (error if path.startswith("/v2") else error["message"])


async def test_head_is_answered_without_a_body(edge: LocalEdge, http: httpx.AsyncClient) -> None:
    for path in ("/v2/models/flowers", "/v2/health/live", "/docs", "/metrics"):
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
    async with edge.open_http(headers={}) as stranger:
        refused = await stranger.head("/v2/models/flowers")
    assert (refused.status_code, refused.content) == (401, b"")


async def test_the_edge_is_no_proxy(edge: LocalEdge) -> None:
    async with open_raw(edge.http_port) as connection:
        await connection.send(f"CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n{FIELD}\r\n\r\n".encode())
        assert (await connection.read_response()).status == 405


@pytest.mark.parametrize("path", ["/v2/models/flowers/infer", "/api/v1/models", "/nothing"])
async def test_options_needs_no_key_and_says_nothing_of_cors(edge: LocalEdge, path: str) -> None:
    async with edge.open_http(headers={}) as http:
        headers = {"origin": "https://page.example", "access-control-request-method": "POST"}
        response = await http.options(path, headers=headers)

    assert (response.status_code, response.content) == (204, b"")
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_pages_of_named_origins_may_call_and_no_others(folder: Path) -> None:
    origins = "https://app.example https://other.example:8443"
    settings = ServingSettings(home=folder, edge=EdgeSettings(cors_origins=origins))
    async with run_edge(folder, settings=settings) as edge, edge.open_http(headers={}) as http:
        for origin in origins.split():
            preflight = await http.options(
                "/v2/models/flowers/infer", headers={"origin": origin, "access-control-request-method": "POST"}
            )
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-origin"] == origin
            assert "authorization" in preflight.headers["access-control-allow-headers"]
            assert "POST" in preflight.headers["access-control-allow-methods"]
            response = await http.get("/v2", headers=AUTHORIZATION | {"origin": origin})
            refused = await http.get("/v2", headers={"origin": origin})
            # The page may read the reason of a refusal.
            for each, status in ((response, 200), (refused, 401)):
                assert each.status_code == status
                assert each.headers["access-control-allow-origin"] == origin
                exposed = each.headers["access-control-expose-headers"].split(",")
                assert {"x-request-id", "x-shoal-model", "x-shoal-version", "x-shoal-digest"} <= set(exposed)
                assert each.headers["vary"] == "origin"
        for origin in ("https://app.example.evil", "http://app.example", "https://app.example:8443", "null", "*"):
            preflight = await http.options("/v2", headers={"origin": origin, "access-control-request-method": "POST"})
            response = await http.get("/v2", headers=AUTHORIZATION | {"origin": origin})
            for each in (preflight, response):
                assert "access-control-allow-origin" not in each.headers
                assert each.headers["vary"] == "origin"


async def test_a_body_over_the_limit_is_refused_in_the_form_of_its_path(http: httpx.AsyncClient) -> None:
    exact = await http.post("/v2/models/flowers/infer", content=bytes(MAX_BODY_BYTES))
    infer = await post_too_much(http, "/v2/models/flowers/infer")
    predict = await post_too_much(http, "/v2/models/flowers/predict")

    assert (exact.status_code, exact.json()["bytes"]) == (200, MAX_BODY_BYTES)
    assert infer.status_code == predict.status_code == 413
    assert infer.json()["error"] == predict.json()["error"]["message"]
    assert predict.json()["error"]["code"] == "payload_too_large"
    assert str(MAX_BODY_BYTES) in infer.json()["error"]


async def post_too_much(http: httpx.AsyncClient, path: str, **options: dict[str, str]) -> httpx.Response:
    """Post a body over the limit; again where the connection was reset, since who still sends may lose a refusal."""
    for _ in range(5):
        with contextlib.suppress(httpx.TransportError):
            return await http.post(path, content=bytes(MAX_BODY_BYTES + 1), **options)  # type: ignore[arg-type]
    raise AssertionError("no response")


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(edge: LocalEdge) -> None:
    async with open_raw(edge.http_port) as connection:
        fields = (FIELD, "content-length: 99999999")
        lines = "\r\n".join(["POST /v2/models/flowers/predict HTTP/1.1", "host: t", *fields, "", ""])
        await connection.send(lines.encode() + bytes(40_000))
        assert (await connection.read_response()).status == 413


async def test_a_caller_that_waits_for_100_continue_gets_it_or_a_refusal(edge: LocalEdge) -> None:
    for field, status in ((FIELD, 100), ("authorization: Bearer x", 401)):
        async with open_raw(edge.http_port) as connection:
            await connection.send(
                f"POST /v2/models/flowers/infer HTTP/1.1\r\nhost: t\r\n{field}\r\nexpect: 100-continue\r\n"
                "content-length: 2\r\n\r\n".encode()
            )
            assert (await connection.read_response()).status == status
            if status == 100:
                await connection.send(b"ab")
                assert (await connection.read_response()).status == 200


async def test_a_request_that_is_not_complete_in_time_gets_408(folder: Path) -> None:
    settings = ServingSettings(home=folder, edge=EdgeSettings(request_header_timeout_s=1))
    async with (
        run_edge(folder, settings=settings) as edge,
        open_raw(edge.http_port) as header,
        open_raw(edge.http_port) as body,
        edge.open_http() as http,
    ):
        await header.send(b"GET /v2 HTTP/1.1\r\nhost: t\r\n")
        await body.send(
            f"POST /v2/models/flowers/infer HTTP/1.1\r\nhost: t\r\n{FIELD}\r\ncontent-length: 9\r\n\r\na".encode()
        )
        assert (await http.get("/v2")).status_code == 200
        in_header, in_body = await header.read_response(), await body.read_response()
        # The first has no id, and HAProxy's own text, which has no setting.
        assert in_header.status == in_body.status == 408
        assert in_body["content-type"] == "application/json"
        assert httpx.Response(200, content=in_body.body).json()["error"]["code"] == "body_timeout"
        assert await header.is_closed(2)
        assert await body.is_closed(2)


async def test_a_source_has_so_many_connections_and_no_more(folder: Path) -> None:
    settings = ServingSettings(home=folder, edge=EdgeSettings(max_connections_per_source=3))
    async with (
        run_edge(folder, settings=settings) as edge,
        open_raw(edge.http_port) as first,
        open_raw(edge.http_port) as second,
        open_raw(edge.http_port),
    ):
        for connection in (first, second):
            assert (await connection.request("GET", "/v2", b"", FIELD)).status == 200
        with contextlib.suppress(ConnectionResetError):
            async with open_raw(edge.http_port) as fourth:
                assert await fourth.is_closed(2)
        first.close()
        await asyncio.sleep(0.2)
        async with open_raw(edge.http_port) as next_one:
            assert (await next_one.request("GET", "/v2", b"", FIELD)).status == 200


async def test_a_model_without_any_replica_gets_503_in_json(folder: Path) -> None:
    async with run_edge(folder, names=()) as edge, edge.open_http() as http:
        response = await http.get("/v2/models/flowers", headers={"x-request-id": "r1"})

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"] | {"message": ""} == {"code": "unavailable", "message": "", "request_id": "r1"}


async def test_a_model_that_is_deployed_and_has_no_replica_goes_to_the_control_application(folder: Path) -> None:
    async with run_edge(folder, names=(CONTROL, "flowers")) as edge, edge.open_http() as http:
        await edge.remove(edge.replicas[1])

        response = await http.post("/v2/models/flowers/infer", content=b"ab")

    assert (response.status_code, response.json()["replica"]) == (200, "shoal-control-0")
    assert (response.json()["path"], response.json()["bytes"]) == ("/v2/models/flowers/infer", 2)
