"""What a key does not allow is refused on every path of a model and of the control application, over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.access.authorization import Authorization, find_model
from deployments.models.served_model import ServedModel
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import encode_caller
from tests.deployments.server.apps import open_client
from tests.deployments.server.raw_http import open_raw
from training.bundle.verify import verify_bundle

SECRET, BASE = "of the edge", "/v2/models/flowers"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def flowers(table_bundle: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A model's own server."""
    digest = verify_bundle(table_bundle).digest
    endpoint = ModelEndpoint(name="flowers", version=1, digest=digest, uri=str(table_bundle))
    app = compose_http(ModelRoutes(ServedModel(endpoint, tmp_path)), Limits(), SECRET, Authorization("flowers"))
    async with open_client(app) as http:
        yield http


def name_caller(allow: str, name: str = "acme/ci") -> dict[str, str]:
    return {"x-shoal-edge": SECRET, "x-shoal-caller": encode_caller(name, allow)}


@pytest.mark.parametrize(
    ("allow", "reads", "computes"),
    [
        ("predict:flowers", True, True),
        ("predict:flow*", True, True),
        ("admin", True, True),
        ("read:flowers", True, False),
        ("deploy:flowers", True, False),
        ("predict:roses", False, False),
        ("keys:*,usage:*,audit,metrics", False, False),
    ],
)
async def test_a_model_answers_what_the_key_allows(
    flowers: httpx.AsyncClient, allow: str, reads: bool, computes: bool
) -> None:
    headers = name_caller(allow)
    for path in ("", "/ready", "/example", "/versions/1", "/versions/1/ready"):
        assert (await flowers.get(BASE + path, headers=headers)).status_code == (200 if reads else 403)
        assert (await flowers.head(BASE + path, headers=headers)).status_code == (200 if reads else 403)
    body = (await flowers.get(f"{BASE}/example", headers=name_caller("admin"))).json()
    for path in ("/predict", "/versions/1/predict"):
        response = await flowers.post(BASE + path, json=body, headers=headers)
        assert response.status_code == (200 if computes else 403)
        if not computes:
            error = response.json()["error"]
            assert error["code"] == "forbidden"
            assert error["message"].startswith("the key acme/ci does not allow predict:flowers; it allows ")
    refused = await flowers.post(f"{BASE}/infer", json={}, headers=headers)
    assert refused.status_code == (400 if computes else 403)


async def test_a_caller_without_a_name_may_do_nothing(flowers: httpx.AsyncClient) -> None:
    for headers in ({"x-shoal-edge": SECRET}, {"x-shoal-edge": SECRET, "x-shoal-caller": "default/admin"}):
        response = await flowers.get(BASE, headers=headers)
        assert response.status_code == 403
        assert "the key of nobody" in response.text


async def test_an_expired_key_is_unauthenticated(flowers: httpx.AsyncClient) -> None:
    headers = name_caller("admin") | {"x-shoal-caller": "acme/ci|abc|1000000000|admin"}

    response = await flowers.get(BASE, headers=headers)

    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="shoal"')


async def test_a_refusal_waits_for_no_body() -> None:
    async def answer(request: Request) -> Response:
        return Response(200, b"{}")

    app = compose_http(answer, Limits(), SECRET, Authorization("flowers"))
    async with open_client(app) as http, open_raw(http.base_url.port or 0) as connection:
        headers = [f"{name}: {value}" for name, value in name_caller("read:*").items()]
        head = "\r\n".join(["POST /v2/models/flowers/infer HTTP/1.1", "host: x", *headers, "content-length: 9", "", ""])
        await connection.send(head.encode())
        assert (await connection.read_response()).status == 403


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/flowers/infer", "flowers"),
        ("/v2/models/flowers", "flowers"),
        ("/v2/models/flowers/versions/2/predict", "flowers"),
        ("/api/v1/models/flowers/predict", "flowers"),
        ("/api/v1/models/flowers", "flowers"),
        ("/v2/models/flowers.canary/infer", "flowers.canary"),
        ("/v2/models/../flowers", ".."),
        ("/v2/models/", ""),
        ("/api/v1/models", ""),
        ("/v2", ""),
        ("/docs", ""),
    ],
)
async def test_the_model_of_a_path_is_the_one_that_routes_see(path: str, model: str) -> None:
    assert find_model(path) == model
