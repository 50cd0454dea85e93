"""A real HTTP server, in a thread, for tests without a cluster."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from deployments.server.asgi import AsgiApp, Receive, Scope, Send
from deployments.server.http_server import HttpServer
from deployments.server.request import App

Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, bytes, Headers]
Handler = Callable[[str, bytes, Scope], Reply]


@contextlib.contextmanager
def run_server(app: AsgiApp) -> Iterator[str]:
    """Serve an ASGI application by uvicorn on a free port; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextlib.contextmanager
def run_http_server(app: App) -> Iterator[str]:
    """Serve an application by Shoal's own server on a free port; yields its URL."""
    loop = uvloop.new_event_loop()  # as in a replica
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = HttpServer(app)
    try:
        port = asyncio.run_coroutine_threadsafe(server.start("127.0.0.1"), loop).result(10)
        yield f"http://127.0.0.1:{port}"
        asyncio.run_coroutine_threadsafe(server.drain(0), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def make_app(handler: Handler) -> AsgiApp:
    """An application that answers each request as a function of its path, body and scope says."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more_body = b"", True
        while more_body:
            message = await receive()
            body, more_body = body + message.get("body", b""), message.get("more_body", False)
        status, response, headers = handler(scope["path"], body, scope)
        headers = [*headers, (b"content-length", b"%d" % len(response))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": response})

    return app
