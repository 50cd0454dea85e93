"""HttpServer in this process."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from deployments.server.asgi import AsgiApp
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from tests.deployments.server.apps import make_asgi_app

StartServer = Callable[[AsgiApp | HttpApp], Awaitable[tuple[HttpServer, int]]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Start servers of ASGI or other applications, closed at the end; each is returned with its port."""
    servers: list[HttpServer] = []

    async def start(app: AsgiApp | HttpApp) -> tuple[HttpServer, int]:
        server = HttpServer(app if isinstance(app, HttpApp) else make_asgi_app(app))
        servers.append(server)
        return server, await server.start("127.0.0.1")

    yield start
    for server in servers:
        await server.drain(0)
