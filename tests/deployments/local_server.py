"""A real HTTP server, in a thread, for tests without a cluster."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn

from deployments.server.asgi import App, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, bytes, Headers]
Handler = Callable[[str, bytes, Scope], Reply]


@contextlib.contextmanager
def run_server(app: App) -> Iterator[str]:
    """Serve an application on a free port; yields its URL."""
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


def make_app(handler: Handler) -> App:
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
