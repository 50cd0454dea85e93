"""A real HTTP server, in a thread, for what is tested without a cluster."""

import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn

from deployments.server.asgi import App


@contextlib.contextmanager
def serving(app: App) -> Iterator[str]:
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
