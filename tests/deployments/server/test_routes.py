"""The layers and routes, in this process; what needs Serve's batching is in tests/e2e."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cluster.local.secrets import hash_key
from deployments.models.replica import ServedModel
from deployments.server.asgi import Message, Receive, Scope, Send
from deployments.server.authentication import Authentication, Caller
from deployments.server.error_responses import ErrorResponses
from deployments.server.layers import compose_http
from deployments.server.request_limits import CHECK_INTERVAL_S, RequestLimits, read_body
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits
from deployments.specs.model import Endpoint
from training.bundle.load import verify_bundle

KEY = "a key"
LIMITS = Limits(max_body_bytes=2000, max_batch_rows=4)


@pytest.fixture
async def caller(table_bundle: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    digest = verify_bundle(table_bundle).digest
    endpoint = Endpoint(name="flowers", version=3, digest=digest, uri=str(table_bundle), limits=LIMITS)
    app = compose_http(ModelRoutes(ServedModel(endpoint, tmp_path)), endpoint.limits, {hash_key(KEY): Caller("tester")})
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test/v2/models/flowers", headers=headers
    ) as http:
        yield http


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic !!!", "Basic d3Jvbmc6d3Jvbmc=", "Token a key"])
@pytest.mark.parametrize("path", ["/predict", "/infer", "/ready", "", "/nothing"])
async def test_nothing_answers_without_a_valid_key(caller: httpx.AsyncClient, key: str, path: str) -> None:
    answer = await caller.post(path, headers={"Authorization": key}, json={})

    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]


async def test_an_empty_key_lets_nobody_in_even_if_it_were_known() -> None:
    app = ErrorResponses(Authentication(slow, {hash_key(""): Caller("nobody")}))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/api") as http:
        assert (await http.get("/", headers={"Authorization": "Bearer "})).status_code == 401


async def test_a_browser_may_send_the_key_as_a_password(caller: httpx.AsyncClient) -> None:
    answer = await caller.get("/ready", auth=("anybody", KEY))

    assert answer.status_code == 200


async def test_an_error_has_the_designs_body_and_the_protocols_on_its_own_paths(caller: httpx.AsyncClient) -> None:
    own = await caller.post("/predict", content=b"{", headers={"x-request-id": "r1"})
    protocols = await caller.post("/infer", content=b"{")

    assert own.json()["error"].keys() == {"code", "message", "request_id"}
    assert own.json()["error"]["code"] == "malformed_body"
    assert own.json()["error"]["request_id"] == "r1"
    assert protocols.status_code == 400
    assert isinstance(protocols.json()["error"], str)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("PUT", "/infer", 405),
        ("POST", "/ready", 405),
        ("GET", "/nothing", 404),
        ("GET", "/versions/4/ready", 404),
        ("POST", "/versions/x/infer", 404),
    ],
)
async def test_a_wrong_path_or_method_is_told(caller: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await caller.request(method, path)

    assert answer.status_code == status
    if status == 405:
        assert answer.headers["allow"] in ("GET", "POST")


async def test_a_body_over_the_limit_is_refused_with_and_without_its_length(caller: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    assert (await caller.post("/predict", content=b"x" * 2001)).status_code == 413
    assert (await caller.post("/predict", content=chunks())).status_code == 413


async def test_a_compressed_body_is_refused(caller: httpx.AsyncClient) -> None:
    answer = await caller.post("/predict", content=b"x", headers={"content-encoding": "gzip"})

    assert answer.status_code == 415


async def slow(scope: object, receive: object, send: object) -> None:
    await asyncio.sleep(0.2)


async def test_a_full_queue_and_a_timeout_have_their_own_answers() -> None:
    app = ErrorResponses(RequestLimits(slow, Limits(max_queue=1, request_timeout_s=0.1)))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/api") as http:
        answers = await asyncio.gather(http.get("/"), http.get("/"))

    by_status = {a.status_code: a for a in answers}
    assert by_status.keys() == {503, 504}
    assert by_status[503].headers["retry-after"] == "1"
    assert by_status[503].json()["error"]["code"] == "queue_full"
    assert by_status[504].json()["error"]["code"] == "timeout"


async def test_work_whose_caller_leaves_is_given_up() -> None:
    app = ErrorResponses(RequestLimits(lasting, Limits()))
    left, said = asyncio.Event(), list[Message]()
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        if (message := next(messages, None)) is not None:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/api", "headers": []}
    call = asyncio.ensure_future(app(scope, receive, send))
    await asyncio.sleep(3 * CHECK_INTERVAL_S)
    assert not call.done()
    left.set()

    await asyncio.wait_for(call, 1)
    assert scope["outcome"] == "cancelled"
    assert said[0]["status"] == 499


async def lasting(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(scope, receive, 10)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        scope["outcome"] = "cancelled"
        raise


async def broken(scope: object, receive: object, send: object) -> None:
    raise ZeroDivisionError("secret detail")


async def test_a_fault_of_ours_says_no_more_than_that() -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(ErrorResponses(broken)), base_url="http://t/api"
    ) as http:  # type: ignore[arg-type]
        answer = await http.get("/")

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["code"] == "internal"
