"""The replica's HTTP server serves a FastAPI application as uvicorn does."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from tests.deployments.local_server import run_server
from tests.deployments.server.conftest import StartServer

pytestmark = pytest.mark.anyio

# What a server adds itself.
SERVER_FIELDS = {"date", "server"}


def build_app() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{name:path}")
    async def get_item(name: str, request: Request, limit: int = 3) -> dict[str, Any]:
        return {
            "name": name,
            "limit": limit,
            "query": str(request.url.query),
            "headers": sorted((k, v) for k, v in request.headers.items() if k != "host"),
        }

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        body = b"".join([chunk async for chunk in request.stream()])
        return Response(body, headers={"x-length": str(len(body))}, media_type="application/octet-stream")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"%d," % number

        return StreamingResponse(parts(), media_type="text/plain")

    @app.get("/redirect")
    async def redirect() -> RedirectResponse:
        return RedirectResponse("/items/a")

    @app.delete("/items/{name}", status_code=204)
    async def delete_item(name: str) -> None:
        return None

    @app.get("/teapot")
    async def teapot() -> JSONResponse:
        return JSONResponse({"tea": True}, 418, {"set-cookie": "a=b"})

    @app.get("/fail")
    async def fail() -> None:
        raise ZeroDivisionError

    return app


@pytest.fixture(scope="module")
def uvicorn_url() -> Iterator[str]:
    with run_server(build_app()) as url:  # type: ignore[arg-type]
        yield url


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/items/a", {}),
    ("GET", "/items/a/b%20c%2Fd", {"params": {"limit": 7, "x": "ä b"}}),
    ("GET", "/items/a?limit=x", {}),
    ("OPTIONS", "/items/a", {}),
    ("GET", "/items/a", {"headers": [("x-a", "1"), ("x-a", "2"), ("X-Upper", "Ä".encode("latin-1"))]}),
    ("POST", "/echo", {"content": b""}),
    ("POST", "/echo", {"content": b"x" * 300_000}),
    ("POST", "/echo", {"content": b"a", "headers": {"expect": "100-continue"}}),
    ("GET", "/stream", {}),
    ("GET", "/redirect", {}),
    ("DELETE", "/items/a", {}),
    ("GET", "/teapot", {}),
    ("GET", "/nothing", {}),
    ("PUT", "/echo", {"content": b"x"}),
    ("GET", "/docs", {}),
    ("GET", "/openapi.json", {}),
]


@pytest.mark.parametrize(("method", "path", "options"), REQUESTS)
async def test_a_response_is_uvicorns(
    start_server: StartServer, uvicorn_url: str, method: str, path: str, options: dict[str, Any]
) -> None:
    _, port = await start_server(build_app())  # type: ignore[arg-type]
    async with httpx.AsyncClient(trust_env=False) as http:
        expected = await http.request(method, uvicorn_url + path, **options)
        response = await http.request(method, f"http://127.0.0.1:{port}{path}", **options)

    def list_fields(each: httpx.Response) -> list[tuple[str, str]]:
        return sorted((k, v) for k, v in each.headers.multi_items() if k not in SERVER_FIELDS)

    assert response.status_code == expected.status_code
    assert response.content == expected.content
    assert list_fields(response) == list_fields(expected)


async def test_heads_response_is_that_of_get_without_its_body(start_server: StartServer) -> None:
    # FastAPI's own routes refuse HEAD; the server asks for GET in its place.
    _, port = await start_server(build_app())  # type: ignore[arg-type]
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as http:
        head, get = await http.head("/items/a"), await http.get("/items/a")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


async def test_a_body_in_chunks_is_uvicorns(start_server: StartServer, uvicorn_url: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d," % number * 1000

    _, port = await start_server(build_app())  # type: ignore[arg-type]
    async with httpx.AsyncClient(trust_env=False) as http:
        expected = await http.post(f"{uvicorn_url}/echo", content=chunks())
        response = await http.post(f"http://127.0.0.1:{port}/echo", content=chunks())

    assert (response.status_code, response.content) == (200, expected.content)


async def test_an_application_that_fails_gets_a_500_in_shoals_form(start_server: StartServer) -> None:
    _, port = await start_server(build_app())  # type: ignore[arg-type]
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(f"http://127.0.0.1:{port}/fail")

    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
