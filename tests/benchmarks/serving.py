"""Serving: Shoal compared with mosec, FastAPI, LitServe and Ray Serve as documented; the same net, the same client.

Shoal serves the bundle as `shoal deploy` does by default: authentication, validation, request ids and metrics are on.
The stacks run one at a time, in rounds, and the result is the median; client and server share this machine's cores, so
only the ratios matter. `limit` is the lower bound of a Python server's work: a bare ASGI function on uvicorn with
Shoal's codec and the same net. serving.md in this folder breaks down the time of a request to Shoal.

    python tests/benchmarks/serving.py [--seconds 8] [--rounds 3] [--only shoal,mosec] [--json]
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import torch
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local import processes
from tests.benchmarks import benchmark_cluster
from tests.benchmarks.benchmark_cluster import BenchmarkCluster
from tests.benchmarks.other_frameworks.mlp import CLASSES, FEATURES, build
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, TableInput

CONNECTIONS = (1, 16, 64)
START_TIMEOUT_S = 60
PEERS = {
    "limit": "limit_peer.py",
    "fastapi": "fastapi_peer.py",
    "litserve": "litserve_peer.py",
    "mosec": "mosec_peer.py",
    "ray_serve_documented": "ray_serve_peer.py",
}
STACKS = ("shoal", *PEERS)
ROW = [round(n / FEATURES, 4) for n in range(FEATURES)]
INFER = {"inputs": [{"name": "input", "shape": [1, FEATURES], "datatype": "FP32", "data": ROW}]}
Measurements = dict[str, dict[int, list[dict[str, float]]]]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each stack")
    parser.add_argument("--only", default=",".join(STACKS), help=f"stacks to measure, of {', '.join(STACKS)}")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    stacks = arguments.only.split(",")
    unknown = [stack for stack in stacks if stack not in STACKS]
    if unknown:
        parser.error(f"no stack {unknown[0]!r}; there are {', '.join(STACKS)}")
    benchmark_cluster.require_tools(
        *((tool, "pip install 'shoal[bench]'") for tool in ("litserve", "mosec") if tool in stacks)
    )

    console = Console(stderr=True)
    measurements: Measurements = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        manifest = save_mlp(folder / "mlp")
        for number in range(arguments.rounds):
            for stack in stacks:
                with console.status(f"round {number + 1} of {arguments.rounds}: {stack}"):
                    by_connections = measurements.setdefault(stack, {})
                    if stack == "shoal":
                        measure_shoal(folder, arguments.seconds, by_connections)
                    else:
                        measure_peer(stack, manifest, folder, arguments.seconds, by_connections)
    report(measurements, arguments)


def report(measurements: Measurements, arguments: argparse.Namespace) -> None:
    """Print medians as a table and, with --json, as JSON."""
    medians = {
        name: {
            c: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for c, runs in by_connections.items()
        }
        for name, by_connections in measurements.items()
    }
    ratios = {
        name: round(medians["shoal"][64]["requests_per_s"] / medians[name][64]["requests_per_s"], 2)
        for name in medians
        if name != "shoal" and "shoal" in medians
    }
    p50_over_fastapi = None
    if {"shoal", "fastapi"} <= medians.keys():
        p50_over_fastapi = round(medians["shoal"][1]["p50_ms"] / medians["fastapi"][1]["p50_ms"], 2)
    table = Table("stack", *(f"c={c} req/s" for c in CONNECTIONS), "p50 c=1", "p99 c=64", "Shoal/stack, c=64", box=None)
    for name, by_connections in medians.items():
        table.add_row(
            name,
            *(f"{by_connections[c]['requests_per_s']:,.0f}" for c in CONNECTIONS),
            f"{by_connections[1]['p50_ms']:.2f} ms",
            f"{by_connections[64]['p99_ms']:.1f} ms",
            f"{ratios[name]:.2f}x" if name in ratios else "",
        )
    console = Console()
    console.print(table)
    cpu_us = {}
    if "shoal" in medians:
        cpu_us = {key.removesuffix("_us"): value for key, value in medians["shoal"][64].items() if key.endswith("_us")}
        shares = ", ".join(f"{role} {value:.0f} us" for role, value in cpu_us.items())
        console.print(f"CPU time of one request to Shoal at 64 connections: {shares}", highlight=False)
    if p50_over_fastapi is not None:
        console.print(f"p50 at one connection: {p50_over_fastapi:.2f}x FastAPI's", highlight=False)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        result = {"ratios": ratios, "p50_over_fastapi": p50_over_fastapi, "cpu_us": cpu_us, "stacks": medians}
        print(json.dumps(result | {"rounds": arguments.rounds, "machine": machine}))


def measure_shoal(folder: Path, seconds: int, measurements: dict[int, list[dict[str, float]]]) -> None:
    """Measure Shoal on a cluster of its own."""
    with BenchmarkCluster(folder) as cluster:
        if not (folder / "published").exists():
            cluster.deploy(folder / "mlp", "mlp")
            (folder / "published").touch()
        script = cluster.write_script("mlp/infer", json.dumps(INFER).encode(), {"Content-Type": "application/json"})
        benchmark_cluster.run_wrk(script, 16, 2)
        for connections in CONNECTIONS:
            measurements.setdefault(connections, []).append(cluster.measure(script, connections, seconds))


def save_mlp(folder: Path) -> Manifest:
    """Save the net as a bundle."""
    info = ModelInfo(
        name="mlp",
        task="tabular-classification",
        input_schema=TableInput(features=tuple(f"x{n}" for n in range(FEATURES))),
        output_schema=ClassOutput(labels=tuple(str(n) for n in range(CLASSES))),
    )
    return save_bundle(folder, build(), inputs=torch.tensor([ROW, ROW]), info=info)


def measure_peer(
    stack: str, manifest: Manifest, folder: Path, seconds: int, measurements: dict[int, list[dict[str, float]]]
) -> None:
    """Measure one peer."""
    body: dict[str, Any] = INFER if stack == "limit" else {"inputs": [ROW]}
    with run_peer(PEERS[stack], manifest, body, folder) as url:
        file = folder / f"{stack}.lua"
        script = benchmark_cluster.write_wrk_script(
            file, url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        benchmark_cluster.run_wrk(script, 16, 2)
        for connections in CONNECTIONS:
            measurements.setdefault(connections, []).append(benchmark_cluster.run_wrk(script, connections, seconds))


@contextlib.contextmanager
def run_peer(file: str, manifest: Manifest, body: dict[str, Any], folder: Path) -> Iterator[str]:
    """Run one peer in its own processes; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    owner = f"bench-{os.getpid()}"
    # Ray's sockets need a short path.
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_"))}
    environment |= {processes.CLUSTER_ID_VARIABLE: owner, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(Path(__file__).parent / "other_frameworks" / file), str(port), str(scratch)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    server = subprocess.Popen(command, env=environment, cwd=folder, **pipes)
    try:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.write(manifest.model_dump_json().encode())  # type: ignore[union-attr]
            server.stdin.close()  # type: ignore[union-attr]
        url = f"http://127.0.0.1:{port}/predict"
        wait_for(url, body, server)
        yield url
    finally:
        server.terminate()
        processes.stop_owned(owner, scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for(url: str, body: dict[str, Any], server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server responds."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stderr is not None
            sys.exit(f"{server.args!r} ended: {server.stderr.read().decode()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(url, json=body).status_code == 200:
                return
        time.sleep(0.2)
    sys.exit(f"{server.args!r} did not respond within {START_TIMEOUT_S} s")


if __name__ == "__main__":
    main()
