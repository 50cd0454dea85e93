"""A replica takes requests from the edges of its own cluster alone."""

import httpx
import pytest

from deployments.access.authorization import Authorization
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.settings import Limits
from tests.deployments.callers import TESTER
from tests.deployments.server.apps import open_client

SECRET = "of the edge"

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def send_caller(request: Request) -> Response:
    return Response(200, request.caller.name.encode())


async def request(path: str, headers: dict[str, str | bytes]) -> httpx.Response:
    async with open_client(compose_http(send_caller, Limits(), SECRET, Authorization())) as http:
        return await http.get(path, headers=headers)  # type: ignore[arg-type]


async def test_a_request_of_the_edge_comes_with_its_callers_name() -> None:
    response = await request("/v2/models/flowers/ready", {"x-shoal-edge": SECRET, "x-shoal-caller": TESTER})

    assert (response.status_code, response.text) == (200, "default/tester")


@pytest.mark.parametrize("value", [None, "", "another", SECRET + "x", SECRET[:-1], b"\xff"])
@pytest.mark.parametrize("path", ["/v2/models/flowers/infer", "/v2/models/flowers/predict", "/docs", "/v2/health/live"])
async def test_a_request_without_the_edges_secret_is_refused_on_every_path(
    path: str, value: str | bytes | None
) -> None:
    headers = {"x-shoal-caller": TESTER} | ({} if value is None else {"x-shoal-edge": value})

    response = await request(path, headers)  # type: ignore[arg-type]

    assert response.status_code == 403
    error = response.json()["error"]
    if path.endswith("/infer") or path == "/v2/health/live":
        assert "Shoal's edge alone" in error
    else:
        assert error["code"] == "not_from_edge"


async def test_an_authorization_header_replaces_no_secret() -> None:
    response = await request("/api/v1/models", {"authorization": f"Bearer {SECRET}"})

    assert response.status_code == 403
