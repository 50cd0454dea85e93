"""Applications for HttpServer, and HTTP clients of one in this process, over real sockets."""

import contextlib
from collections.abc import AsyncIterator

import httpx

from deployments.access.caller import Caller, build_admin
from deployments.server.asgi import AsgiApp, AsgiHandler, Send
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from deployments.server.request import Handler, Layer, Request, Response

MAX_BODY_BYTES = 100 * 1024**2


def make_app(handler: Handler, *layers: Layer, max_body_bytes: int = MAX_BODY_BYTES) -> HttpApp:
    """A handler with some layers."""
    return HttpApp(handler, layers, max_body_bytes)


class CallerLayer:
    """Lets a caller in without a key."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def admit(self, request: Request) -> None:
        """Say who calls."""
        request.caller = self._caller

    def leave(self, request: Request) -> None:
        """Nothing is left."""


def make_asgi_app(app: AsgiApp, caller: Caller | None = None) -> HttpApp:
    """An ASGI application, whose caller may do everything, without other layers."""
    return make_app(AsgiHandler(app), CallerLayer(caller or build_admin()))


async def echo(request: Request) -> Response:
    """Answer with the body."""
    return Response(200, request.body)


@contextlib.asynccontextmanager
async def open_client(app: HttpApp, path: str = "", **options: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server of this application."""
    server = HttpServer(app)
    port = await server.start("127.0.0.1")
    base_url = f"http://127.0.0.1:{port}{path}"
    async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=20, **options) as http:  # type: ignore[arg-type]
        yield http
    await server.drain(0)


async def send_response(send: Send, status: int, body: bytes) -> None:
    """Send a complete response by ASGI."""
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
