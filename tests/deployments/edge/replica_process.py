"""A replica in a process of its own, which a test may stop or kill; run as a script: NAME SECONDS of each request."""

import asyncio
import json
import sys

from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response


async def main(name: str, duration_s: float) -> None:
    """Print the port, then serve until the process ends."""

    async def answer(request: Request) -> Response:
        await asyncio.sleep(duration_s)
        return Response(200, json.dumps({"replica": name, "bytes": len(request.body)}).encode())

    print(await HttpServer(HttpApp(answer, (), 1_000_000)).start("127.0.0.1"), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
