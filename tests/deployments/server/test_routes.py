"""The layers and routes, in this process; tests/e2e has them behind the edge."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.access.authorization import Authorization
from deployments.models.served_model import ServedModel
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import TESTER_HEADER
from tests.deployments.server.apps import echo, make_app, open_client
from training.bundle.verify import verify_bundle

SECRET = "of the edge"
LIMITS = Limits(max_body_bytes=2000, max_batch_rows=4)


@pytest.fixture
async def client(table_bundle: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    digest = verify_bundle(table_bundle).digest
    endpoint = ModelEndpoint(name="flowers", version=3, digest=digest, uri=str(table_bundle), limits=LIMITS)
    app = compose_http(ModelRoutes(ServedModel(endpoint, tmp_path)), endpoint.limits, SECRET, Authorization())
    async with open_client(app, "/v2/models/flowers", headers={"x-shoal-edge": SECRET, **TESTER_HEADER}) as http:
        yield http


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_of_a_type_that_any_page_can_send_is_refused(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}

    response = await client.post("/predict", content=b'{"inputs": [[1, 2, 3, 4]]}', headers=headers)

    assert response.status_code == 415
    assert "send the header Content-Type: application/json" in response.text


async def test_an_error_body_has_shoals_form_and_the_protocols_on_its_own_paths(client: httpx.AsyncClient) -> None:
    predict = await client.post(
        "/predict", content=b"{", headers={"x-request-id": "r1", "content-type": "application/json"}
    )
    infer = await client.post("/infer", content=b"{")

    assert predict.json()["error"].keys() == {"code", "message", "request_id"}
    assert predict.json()["error"]["code"] == "malformed_body"
    assert predict.json()["error"]["request_id"] == "r1"
    assert infer.status_code == 400
    assert isinstance(infer.json()["error"], str)


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
async def test_an_unknown_path_and_a_wrong_method_have_their_own_status(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    if status == 405:
        assert response.headers["allow"] in ("GET", "POST")


async def test_a_body_over_the_limit_is_refused_with_and_without_its_length(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    assert (await client.post("/predict", content=b"x" * 2001)).status_code == 413
    assert (await client.post("/predict", content=chunks())).status_code == 413


async def test_a_compressed_body_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/predict", content=b"x", headers={"content-encoding": "gzip"})

    assert response.status_code == 415


async def sleep_briefly(request: Request) -> Response:
    await asyncio.sleep(0.2)
    return Response(200, b"late")


async def test_a_full_queue_and_a_timeout_have_their_own_status() -> None:
    limits = RequestLimits(Limits(max_queue=1, request_timeout_s=0.1))
    async with open_client(make_app(sleep_briefly, limits)) as http:
        responses = await asyncio.gather(http.get("/api"), http.get("/api"))

        by_status = {response.status_code: response for response in responses}
        assert by_status.keys() == {429, 504}
        assert by_status[429].headers["retry-after"] == "1"
        assert by_status[429].json()["error"]["code"] == "queue_full"
        assert by_status[504].json()["error"]["code"] == "deadline_exceeded"

        # Both have left, and the next one is late by itself.
        assert (await http.get("/api")).status_code == 504


async def test_a_body_that_is_late_has_a_timeout_of_its_own() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(1)

    async with open_client(make_app(echo, RequestLimits(Limits(request_timeout_s=0.1)))) as http:
        response = await http.post("/api", content=chunks())

    assert (response.status_code, response.json()["error"]["code"]) == (408, "body_timeout")


async def fail(request: Request) -> Response:
    raise ZeroDivisionError("secret detail")


async def test_an_internal_error_does_not_show_its_reason() -> None:
    async with open_client(make_app(fail)) as http:
        response = await http.get("/api")

    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal"
