"""The Python client: what it adds to a call over bare httpx, for the same request to the same server, in one run.

The server is uvicorn in a process of its own that answers each request with bytes made before, so that nothing but the
callers differs. Bare httpx is given the body and headers ready-made, as an httpx.Client user would send them, and its
answer is read but not decoded. Callers take turns, a few calls each, so that the machine's noise meets all of them;
what is told is the median over the turns.

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

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from deployments.client import AsyncClient, Client
from deployments.client.tensors import encode_request

CALLS_A_TURN = 10
SHAPES = {"64 floats": (1, 64), "3x224x224": (1, 3, 224, 224)}
PEER = Path(__file__).parent / "peers" / "canned_peer.py"
KEY = "a-key"


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=300, help=f"turns of {CALLS_A_TURN} calls for each caller")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(PEER), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        found = {}
        for name, shape in SHAPES.items():
            for binary in (True, False) if name == "64 floats" else (True,):
                case = f"{name}, {'binary' if binary else 'JSON'}"
                array = np.random.default_rng(0).random(shape, dtype=np.float32)
                found[f"{case}, sync"] = blocking(url, array, binary, arguments.turns)
                found[f"{case}, async"] = asyncio.run(awaiting(url, array, binary, arguments.turns))
    finally:
        server.terminate()
        server.wait()
    report(found, arguments)


def wait_for(url: str) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    sys.exit("error: the server did not start within 30 s")


def request(array: np.ndarray, binary: bool) -> dict[str, Any]:
    """The request that the client sends, as httpx takes it."""
    body, headers = encode_request({"x": array}, None, binary)
    return {"content": body, "headers": {key.decode(): value.decode() for key, value in headers}}


def blocking(url: str, array: np.ndarray, binary: bool, turns: int) -> dict[str, float]:
    """Seconds a call of bare httpx and of the client."""
    ready, path = request(array, binary), f"{url}/v2/models/m/infer"
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as bare, Client(url, KEY) as client:

        def ask_bare() -> None:
            assert bare.post(path, **ready).content

        def ask() -> None:
            assert client.infer("m", {"x": array}, binary=binary)

        times: dict[str, list[float]] = {"httpx": [], "client": []}
        for turn in range(turns + 5):
            for name, call in (("httpx", ask_bare), ("client", ask)):
                start = time.perf_counter()
                for _ in range(CALLS_A_TURN):
                    call()
                if turn >= 5:
                    times[name].append((time.perf_counter() - start) / CALLS_A_TURN)
    return told(times)


async def awaiting(url: str, array: np.ndarray, binary: bool, turns: int) -> dict[str, float]:
    """The same with asyncio."""
    ready, path = request(array, binary), f"{url}/v2/models/m/infer"
    bare_client = httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"})
    async with bare_client as bare, AsyncClient(url, KEY) as client:

        async def ask_bare() -> None:
            assert (await bare.post(path, **ready)).content

        async def ask() -> None:
            assert await client.infer("m", {"x": array}, binary=binary)

        calls: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (("httpx", ask_bare), ("client", ask))
        times: dict[str, list[float]] = {"httpx": [], "client": []}
        for turn in range(turns + 5):
            for name, call in calls:
                start = time.perf_counter()
                for _ in range(CALLS_A_TURN):
                    await call()
                if turn >= 5:
                    times[name].append((time.perf_counter() - start) / CALLS_A_TURN)
    return told(times)


def told(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians in microseconds, and what the client adds."""
    bare, ours = (statistics.median(times[name]) * 1e6 for name in ("httpx", "client"))
    added = statistics.median(b - a for a, b in zip(times["httpx"], times["client"], strict=True)) * 1e6
    return {
        "httpx_us": round(bare, 1),
        "client_us": round(ours, 1),
        "added_us": round(added, 1),
        "ratio": round(ours / bare, 3),
    }


def report(found: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    """Print a table and, if asked, all as JSON."""
    table = Table("call", "bare httpx", "Client", "added", "ratio", box=None)
    for name, row in found.items():
        table.add_row(
            name,
            f"{row['httpx_us']:,.0f} µs",
            f"{row['client_us']:,.0f} µs",
            f"{row['added_us']:+,.0f} µs",
            f"{row['ratio']:.2f}x",
        )
    Console().print(table)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "httpx": httpx.__version__}
        print(json.dumps({"calls": found, "turns": arguments.turns, "machine": machine}))


if __name__ == "__main__":
    main()
