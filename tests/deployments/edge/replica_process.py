"""A replica in a process of its own, which a test may stop or kill; run as a script: NAME SECONDS of each request."""

import asyncio
import json
import os
import sys

from deployments.server.asgi import Receive, Scope, Send, send_response
from deployments.server.http_server import HttpServer


async def main(name: str, duration_s: float) -> None:
    """Print the port, then serve until the process ends."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"].endswith("/exit"):
            os._exit(1)
        await asyncio.sleep(duration_s)
        await send_response(send, 200, json.dumps({"replica": name, "bytes": size}).encode())

    print(await HttpServer(app).start("127.0.0.1"), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
