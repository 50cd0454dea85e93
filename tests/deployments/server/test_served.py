"""What a replica's responses say of it: on each of them, and encoded once."""

import asyncio

import httpx
import pytest

from deployments.errors import QueueFull
from deployments.server.http_server import HttpServer
from deployments.server.request import Request, Response
from deployments.server.served import Served
from deployments.specs.model_deployment import Endpoint, ModelEndpoint
from tests.deployments.server.apps import make_app

SERVED = Served("flowers", 3, "d" * 64)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def answer(request: Request) -> Response | None:
    if request.path == "/refused":
        raise QueueFull("too much", 1)
    if request.path == "/stream":
        await request.start(200, [(b"content-type", b"text/plain")])
        await request.write(b"part")
        await request.end()
        return None
    return Response(200, b"{}")


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/stream", 200), ("/refused", 429)])
async def test_every_response_says_what_it_is_of(path: str, status: int) -> None:
    server = HttpServer(make_app(answer), served=SERVED)
    port = await server.start("127.0.0.1")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        first = await http.get(path)
        await asyncio.sleep(1.1)  # the fields are encoded once a second
        second = await http.get(path)
    await server.drain(0)

    for response in (first, second):
        assert response.status_code == status
        fields = [(name, value) for name, value in response.headers.multi_items() if name.startswith("x-shoal-")]
        assert fields == [("x-shoal-model", "flowers"), ("x-shoal-version", "3"), ("x-shoal-digest", "d" * 64)]
        assert "date" in response.headers


async def test_a_server_of_several_says_nothing() -> None:
    server = HttpServer(make_app(answer))
    port = await server.start("127.0.0.1")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        response = await http.get("/")
    await server.drain(0)

    assert not [name for name in response.headers if name.startswith("x-shoal-")]


async def test_a_pipeline_has_no_digest() -> None:
    model = ModelEndpoint(name="flowers", version=3, digest="d" * 64, uri="/b")

    assert Served.of(model) == SERVED
    assert Served.of(Endpoint(name="p", version=1)).build_headers() == {"x-shoal-model": "p", "x-shoal-version": "1"}
    assert Served("p", 1, nodes=("a:1", "b:3")).list_nodes() == ("p:1", "a:1", "b:3")
