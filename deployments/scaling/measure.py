"""Measure: what a request costs a replica beside its pass; and a profile of a model that no replica serves, locally.

Deploy walk: deployments.models.replica -> [measure.py] -> profile.py
`python -m deployments.scaling.measure` is the process of `shoal profile` for a version that is not deployed.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from deployments.access.authorization import Authorization
from deployments.access.caller import build_admin
from deployments.errors import CallError
from deployments.models.served_model import PROFILE_S, ServedModel
from deployments.scaling.profile import PROFILES, Profile, ProfileCache, build_key
from deployments.server.edge_check import CALLER_HEADER, SECRET_HEADER
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.specs.model_deployment import ModelEndpoint
from training.errors import UserError

REQUESTS, CONNECTIONS, TIMEOUT_S = 400, 8, 10.0
CODEC_ROWS = 16
HOST, SECRET = "127.0.0.1", "profile"


async def measure_request_cost(model: ServedModel) -> Profile:
    """Complete a model's profile with the CPU time of a request beside its pass, where it does not know it yet.

    It is that of the server and its layers, for requests of metadata over loopback, and that of decoding the bundle's
    example and encoding the response to it, each with one row and with several.
    """
    if model.profile.request_s is None or model.profile.row_s is None:
        with contextlib.suppress(CallError, OSError):  # the model fails its own example: requests will say so
            one_s, many_s = await model.time_codec(1), await model.time_codec(CODEC_ROWS)
            row_s = max(0.0, many_s - one_s) / (CODEC_ROWS - 1)
            request_s = await _measure_server(model) + max(0.0, one_s - row_s)
            model.profile = model.profile.model_copy(update={"request_s": request_s, "row_s": row_s})
            model.profiles.save(model.profile)
    return model.profile


async def _measure_server(model: ServedModel) -> float:
    """CPU seconds of the event loop for a request without a pass."""
    name = model.endpoint.name
    server = HttpServer(compose_http(ModelRoutes(model), model.endpoint.limits, SECRET, Authorization(name)))
    port = await server.start(HOST)
    try:
        await asyncio.to_thread(_send_requests, port, name, CONNECTIONS)
        started_s = time.thread_time()
        # From another thread, whose CPU time does not count.
        await asyncio.to_thread(_send_requests, port, name, REQUESTS)
        return (time.thread_time() - started_s) / REQUESTS
    finally:
        await server.drain(TIMEOUT_S)


def _send_requests(port: int, name: str, count: int) -> None:
    """Send requests over several connections at once, as an edge does."""
    headers = {"host": HOST, SECRET_HEADER.decode(): SECRET, CALLER_HEADER.decode(): build_admin().encode()}
    lines = (f"GET /v2/models/{name} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items()))
    request = "\r\n".join((*lines, "", "")).encode()
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection((HOST, port), TIMEOUT_S)) for _ in range(CONNECTIONS)
        ]
        for _ in range(count // CONNECTIONS):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                # A response of metadata fits into one segment of loopback.
                connection.recv(2**16)


def main(arguments: dict[str, Any]) -> None:
    """Profile a model in this process as a replica would, and print the profile as JSON.

    Args:
        arguments: `endpoint`, `cache` (a folder), `threads` (of a pass) and `refresh` (whether to measure anew).
    """
    import torch
    import uvloop

    torch.set_num_threads(arguments["threads"])
    endpoint, cache = ModelEndpoint.model_validate(arguments["endpoint"]), Path(arguments["cache"])
    if arguments["refresh"]:
        key = build_key(endpoint.digest, endpoint.variant, endpoint.limits.max_batch_rows)
        ProfileCache(cache / PROFILES).delete(key)
    # A replica without a goal leaves a profile of few passes.
    model = ServedModel(endpoint, cache, profile_s=PROFILE_S)
    sys.stdout.write(uvloop.run(measure_request_cost(model)).model_dump_json() + "\n")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except UserError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(2)
