"""HttpServer in this process."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from deployments.server.asgi import App
from deployments.server.http_server import HttpServer

StartServer = Callable[[App], Awaitable[tuple[HttpServer, int]]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Start servers, which are closed at the end; each is returned with its port."""
    servers: list[HttpServer] = []

    async def start(app: App) -> tuple[HttpServer, int]:
        server = HttpServer(app)
        servers.append(server)
        return server, await server.start("127.0.0.1")

    yield start
    for server in servers:
        await server.drain(0)
