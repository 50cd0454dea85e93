"""Serving: Shoal beside plain FastAPI, LitServe and Ray Serve as documented; one run, one net, one client.

Shoal serves the bundle as `shoal deploy` leaves it, with authentication on. Each stack runs alone, in rounds, and what
is told is the median; client and server share this machine's cores, so the ratios count, not the figures.

    python tests/benchmarks/serving.py [--seconds 8] [--rounds 3] [--json]
"""

import argparse
import contextlib
import json
import os
import platform
import re
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

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from cluster import calls, lifecycle, processes
from cluster.settings import Settings
from training import bundle
from training.words import Classes, TableWords

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from mlp import CLASSES, FEATURES, build

CONNECTIONS = (1, 16, 64)
START_S = 60
PEERS = {"fastapi": "fastapi_peer.py", "litserve": "litserve_peer.py", "ray_serve_documented": "ray_serve_peer.py"}
ROW = [round(n / FEATURES, 4) for n in range(FEATURES)]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each stack is measured")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    for tool, remedy in (("wrk", "apt-get install wrk"), ("litserve", "pip install 'shoal[bench]'")):
        if not (shutil.which(tool) or (Path(sys.executable).parent / tool).exists()):
            sys.exit(f"error: this benchmark needs {tool}; {remedy}")

    console = Console(stderr=True)
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        stacks = {"shoal": lambda: shoal(Path(folder))} | {
            name: (lambda file=file: peer(file, Path(folder))) for name, file in PEERS.items()
        }
        for number in range(arguments.rounds):
            for name, stack in stacks.items():
                with console.status(f"round {number + 1} of {arguments.rounds}: {name}"), stack() as script:
                    wrk(script, 16, 2)
                    for connections in CONNECTIONS:
                        measured = wrk(script, connections, arguments.seconds)
                        found.setdefault(name, {}).setdefault(connections, []).append(measured)
    report(found, arguments)


def report(found: dict[str, dict[int, list[dict[str, float]]]], arguments: argparse.Namespace) -> None:
    """Print medians as a table and, if asked, all as JSON."""
    medians = {
        name: {
            c: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for c, runs in by_connections.items()
        }
        for name, by_connections in found.items()
    }
    ratios = {
        name: round(medians["shoal"][64]["requests_per_s"] / medians[name][64]["requests_per_s"], 2) for name in PEERS
    }
    table = Table("stack", *(f"c={c} req/s" for c in CONNECTIONS), "p50 c=1", "p99 c=64", "Shoal is (c=64)", box=None)
    for name, by_connections in medians.items():
        table.add_row(
            name,
            *(f"{by_connections[c]['requests_per_s']:,.0f}" for c in CONNECTIONS),
            f"{by_connections[1]['p50_ms']:.2f} ms",
            f"{by_connections[64]['p99_ms']:.1f} ms",
            f"{ratios[name]:.2f}x" if name in ratios else "",
        )
    Console().print(table)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({"ratios": ratios, "stacks": medians, "rounds": arguments.rounds, "machine": machine}))


@contextlib.contextmanager
def shoal(folder: Path) -> Iterator[Path]:
    """A Shoal cluster of its own that serves the net; yields wrk's script."""
    home = folder / "home"
    settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0)
    environment = os.environ | {
        "SHOAL_HOME": str(home),
        "SHOAL_HTTP_PORT": "0",
        "SHOAL_GRPC_PORT": "0",
        "SHOAL_DASHBOARD_PORT": "0",
    }

    def run(*words: str) -> None:
        command = [Path(sys.executable).parent / "shoal", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"shoal {' '.join(words)}: {done.stderr}")

    try:
        run("up")
        if not (folder / "mlp").exists():
            save_bundle(folder / "mlp")
            run("models", "import", str(folder / "mlp"))
        run("deploy", "mlp")
        cluster = lifecycle.require(settings)
        with calls.client(settings, cluster) as http:
            key = str(http.headers["authorization"])
        tensor = {"name": "input", "shape": [1, FEATURES], "datatype": "FP32", "data": ROW}
        url = f"{cluster.url}/v2/models/mlp/infer"
        yield script(folder / "shoal.lua", url, {"inputs": [tensor]}, {"Authorization": key})
    finally:
        run("down")


def save_bundle(folder: Path) -> None:
    """The net as a bundle, as anybody would make one."""
    about = bundle.About(
        name="mlp",
        task="tabular-classification",
        words=TableWords(features=tuple(f"x{n}" for n in range(FEATURES))),
        answer=Classes(labels=tuple(str(n) for n in range(CLASSES))),
    )
    bundle.save(folder, build(), inputs=torch.tensor([ROW, ROW]), about=about)


@contextlib.contextmanager
def peer(file: str, folder: Path) -> Iterator[Path]:
    """One peer in processes of its own; yields wrk's script."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mark = f"bench-{os.getpid()}"
    # Ray's sockets need a short path.
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_"))}
    environment |= {processes.MARK: mark, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(Path(__file__).parent / "peers" / file), str(port), str(scratch)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)
    try:
        url, body = f"http://127.0.0.1:{port}/predict", {"inputs": [ROW]}
        wait_for(url, body, server)
        yield script(folder / f"{file}.lua", url, body, {})
    finally:
        server.terminate()
        processes.stop(mark, scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for(url: str, body: dict[str, Any], server: "subprocess.Popen[bytes]") -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stderr is not None
            sys.exit(f"{server.args} ended: {server.stderr.read().decode()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(url, json=body).status_code == 200:
                return
        time.sleep(0.2)
    sys.exit(f"{server.args} did not answer within {START_S} s")


def script(file: Path, url: str, body: dict[str, Any], headers: dict[str, str]) -> Path:
    """Write wrk's script, its URL in the first line."""
    lines = [f"-- {url}", 'wrk.method = "POST"', f"wrk.body = [=[{json.dumps(body)}]=]"]
    for name, value in ({"Content-Type": "application/json"} | headers).items():
        lines.append(f'wrk.headers["{name}"] = "{value}"')
    file.write_text("\n".join(lines) + "\n")
    return file


def wrk(file: Path, connections: int, seconds: int) -> dict[str, float]:
    """Run wrk once; every answer must be a 200."""
    url = file.read_text().splitlines()[0].removeprefix("-- ")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(file), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"wrk met errors at {url}:\n{said}")
    latency = {f"p{p}_ms": _milliseconds(said, p) for p in (50, 99)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate is not None
    return {"requests_per_s": float(rate.group(1))} | latency


def _milliseconds(said: str, percentile: int) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", said)
    assert found is not None
    return float(found.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found.group(2)]


if __name__ == "__main__":
    main()
