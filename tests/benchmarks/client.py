"""The Python client: its overhead over bare httpx for the same request to the same server.

The server is uvicorn in its own process, which sends a prepared response to each request. Bare httpx is given body and
headers, and reads the response without decoding it. The callers alternate every few calls, so that noise affects all
of them equally; the result is the median over the turns.

    python tests/benchmarks/client.py [--turns 300] [--json]
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from deployments.client import AsyncClient, Client
from deployments.client.tensors import encode_request

CALLS_PER_TURN = 10
SHAPES = {"64 floats": (1, 64), "3x224x224": (1, 3, 224, 224)}
PEER = Path(__file__).parent / "other_frameworks" / "canned_peer.py"
KEY = "a-key"


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=300, help=f"turns of {CALLS_PER_TURN} calls for each caller")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(PEER), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        results = {}
        for name, shape in SHAPES.items():
            for binary in (True, False) if name == "64 floats" else (True,):
                case = f"{name}, {'binary' if binary else 'JSON'}"
                array = np.random.default_rng(0).random(shape, dtype=np.float32)
                results[f"{case}, sync"] = measure_sync(url, array, binary, arguments.turns)
                results[f"{case}, async"] = asyncio.run(measure_async(url, array, binary, arguments.turns))
    finally:
        server.terminate()
        server.wait()
    report(results, arguments)


def wait_for(url: str) -> None:
    """Wait until the server responds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    sys.exit("error: the server did not start within 30 s")


def build_request(array: np.ndarray, binary: bool) -> dict[str, Any]:
    """Build the request that the client sends, as arguments of httpx."""
    body, headers = encode_request({"x": array}, None, binary)
    return {"content": body, "headers": {key.decode(): value.decode() for key, value in headers}}


def measure_sync(url: str, array: np.ndarray, binary: bool, turns: int) -> dict[str, float]:
    """Measure calls of bare httpx and of the sync client."""
    request, path = build_request(array, binary), f"{url}/v2/models/m/infer"
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as bare, Client(url, KEY) as client:

        def call_httpx() -> None:
            assert bare.post(path, **request).content

        def call_client() -> None:
            assert client.infer("m", {"x": array}, binary=binary)

        times: dict[str, list[float]] = {"httpx": [], "client": []}
        for turn in range(turns + 5):
            for name, call in (("httpx", call_httpx), ("client", call_client)):
                start = time.perf_counter()
                for _ in range(CALLS_PER_TURN):
                    call()
                if turn >= 5:
                    times[name].append((time.perf_counter() - start) / CALLS_PER_TURN)
    return summarize(times)


async def measure_async(url: str, array: np.ndarray, binary: bool, turns: int) -> dict[str, float]:
    """Measure calls of bare httpx and of the async client."""
    request, path = build_request(array, binary), f"{url}/v2/models/m/infer"
    bare_client = httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"})
    async with bare_client as bare, AsyncClient(url, KEY) as client:

        async def call_httpx() -> None:
            assert (await bare.post(path, **request)).content

        async def call_client() -> None:
            assert await client.infer("m", {"x": array}, binary=binary)

        calls: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (("httpx", call_httpx), ("client", call_client))
        times: dict[str, list[float]] = {"httpx": [], "client": []}
        for turn in range(turns + 5):
            for name, call in calls:
                start = time.perf_counter()
                for _ in range(CALLS_PER_TURN):
                    await call()
                if turn >= 5:
                    times[name].append((time.perf_counter() - start) / CALLS_PER_TURN)
    return summarize(times)


def summarize(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians in microseconds, and the client's overhead."""
    httpx_us, client_us = (statistics.median(times[name]) * 1e6 for name in ("httpx", "client"))
    overhead_us = statistics.median(b - a for a, b in zip(times["httpx"], times["client"], strict=True)) * 1e6
    return {
        "httpx_us": round(httpx_us, 1),
        "client_us": round(client_us, 1),
        "overhead_us": round(overhead_us, 1),
        "ratio": round(client_us / httpx_us, 3),
    }


def report(results: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    """Print a table and, with --json, JSON."""
    table = Table("call", "bare httpx", "client", "overhead", "ratio", box=None)
    for name, row in results.items():
        table.add_row(
            name,
            f"{row['httpx_us']:,.0f} µs",
            f"{row['client_us']:,.0f} µs",
            f"{row['overhead_us']:+,.0f} µs",
            f"{row['ratio']:.2f}x",
        )
    Console().print(table)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "httpx": httpx.__version__}
        print(json.dumps({"calls": results, "turns": arguments.turns, "machine": machine}))


if __name__ == "__main__":
    main()
