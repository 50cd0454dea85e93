"""Waits: the time that each command of Shoal takes, compared with the same work in bare Ray.

The two alternate on one machine, each from starting its cluster to stopping it. waits.md has the results.

    python tests/benchmarks/waits.py [--rounds 3] [--json]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local.ports import Ports
from cluster.local.running_cluster import require_cluster
from cluster.settings import Settings
from tests.conftest import open_http

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PEER = Path(__file__).parent / "other_frameworks" / "bare_ray.py"
GOALS = {
    "up": "<= 1.3x",
    "deploy to the first answer": "<= 1.5x",
    "undeploy": "< 3 s",
    "train, one epoch": "<= bare + 6 s",
    "a mistyped path": "< 1.5 s",
}
COMMANDS = ("status", "models", "runs", "recipes", "settings")

Times = dict[str, list[float]]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    shoal: Times = {}
    bare: Times = {}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="shoal-waits-") as folder:
            measure_shoal(Path(folder), shoal)
            measure_bare(Path(folder), bare)
    rows = summarize(shoal, bare)
    print_rows(rows, args.rounds)
    if args.json:
        print(json.dumps({"waits": rows}))


def measure_shoal(folder: Path, times: Times) -> None:
    """Measure Shoal's commands once, from `shoal up` to `shoal down`."""
    home = folder / "home"
    variables = ("SHOAL_HTTP_PORT", "SHOAL_GRPC_PORT", "SHOAL_DASHBOARD_PORT")
    environment = os.environ | {"SHOAL_HOME": str(home)} | dict.fromkeys(variables, "0")

    def shoal(*arguments: str, fails: bool = False) -> None:
        result = subprocess.run([BIN / "shoal", *arguments], env=environment, capture_output=True, text=True)
        if bool(result.returncode) != fails:
            sys.exit(f"shoal {' '.join(arguments)}: {result.stderr or result.stdout}")

    try:
        with timed(times, "up"):
            shoal("up")
        settings = Settings(home=home, http_port=0, dashboard_port=0, grpc_port=0)
        with timed(times, "train, one epoch"):
            shoal("train", "iris", "--set", "stop.epochs=1")
        with open_http(settings, require_cluster(settings)) as http, timed(times, "deploy to the first answer"):
            shoal("deploy", "iris")
            example = http.get("/v2/models/iris/example").raise_for_status()
            http.post("/v2/models/iris/predict", json=example.json()).raise_for_status()
        for command in COMMANDS:
            with timed(times, f"shoal {command}"):
                shoal(command)
        with timed(times, "a mistyped path"):
            shoal("models", "import", "nowhere", fails=True)
        with timed(times, "undeploy"):
            shoal("undeploy", "iris")
    finally:
        with timed(times, "shoal down"):
            shoal("down")


def measure_bare(folder: Path, times: Times) -> None:
    """Measure the same with `ray start`, Serve's REST API and a TorchTrainer."""
    ports = Ports()
    gcs, dashboard, http = (ports.pick_free() for _ in range(3))
    temp_dir = Path(tempfile.mkdtemp(prefix="bare-", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SHOAL_"))}
    environment |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(PEER.parent),
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
    }
    start = [
        str(BIN / "ray"),
        "start",
        "--head",
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--temp-dir={temp_dir}",
    ]
    api = httpx.Client(base_url=f"http://127.0.0.1:{dashboard}", timeout=60, trust_env=False)
    service = httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=60, trust_env=False)

    def deploy(*names: str) -> None:
        applications = [{"name": n, "route_prefix": f"/{n}", "import_path": f"bare_ray:{n}"} for n in names]
        config = {"http_options": {"host": "127.0.0.1", "port": http}, "applications": applications}
        api.put("/api/serve/applications/", json=config).raise_for_status()

    try:
        with timed(times, "up"):
            subprocess.run([*start, "--num-cpus=4"], env=environment, check=True, capture_output=True)
            deploy("echo")
            wait_for(lambda: is_ok(service, "/echo"))
        with timed(times, "train, one epoch"):
            command = [sys.executable, str(PEER), str(folder / "storage")]
            subprocess.run(command, env=environment, check=True, capture_output=True)
        with timed(times, "deploy to the first answer"):
            deploy("echo", "net")
            wait_for(lambda: is_ok(service, "/net"))
        with timed(times, "undeploy"):
            deploy("echo")
            wait_for(lambda: "net" not in api.get("/api/serve/applications/").json()["applications"])
    finally:
        stop_bare(temp_dir)


def stop_bare(temp_dir: Path) -> None:
    """End every process that holds a file of this Ray open: `ray stop` would end every Ray on the machine."""
    import psutil

    def is_owned(process: psutil.Process) -> bool:
        try:
            return str(temp_dir) in " ".join(process.cmdline()) or any(
                f.path.startswith(str(temp_dir)) for f in process.open_files()
            )
        except psutil.Error:
            return False

    owned = [process for process in psutil.process_iter() if process.pid != os.getpid() and is_owned(process)]
    for process in owned:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(owned, timeout=5)
    shutil.rmtree(temp_dir, ignore_errors=True)


@contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    """Record the time that the block takes."""
    start_s = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - start_s)


def is_ok(client: httpx.Client, path: str) -> bool:
    """Whether the response to a GET of this path is a 200."""
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(is_done: Callable[[], bool], timeout_s: float = 120) -> None:
    """Poll until done; exit after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            sys.exit(f"error: bare Ray did not finish within {timeout_s:g} s")
        time.sleep(0.05)


def summarize(shoal: Times, bare: Times) -> list[dict[str, Any]]:
    """Return a row for each wait: medians, their ratio, and the goal."""
    rows = []
    for name, seconds in shoal.items():
        shoal_s = statistics.median(seconds)
        bare_s = statistics.median(bare[name]) if name in bare else None
        ratio = None if bare_s is None else shoal_s / bare_s
        goal = GOALS.get(name, "< 1 s" if name.startswith("shoal ") and name != "shoal down" else "")
        rows.append({"wait": name, "shoal_s": shoal_s, "bare_s": bare_s, "ratio": ratio, "goal": goal})
    return rows


def print_rows(rows: list[dict[str, Any]], rounds: int) -> None:
    """Print the rows as a table."""
    table = Table("wait", "Shoal, s", "bare Ray, s", "ratio", "goal", box=None, pad_edge=False)
    for row in rows:
        bare = "" if row["bare_s"] is None else f"{row['bare_s']:.1f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        table.add_row(row["wait"], f"{row['shoal_s']:.1f}", bare, ratio, row["goal"])
    Console(width=120).print(table, f"\nmedians of {rounds} round(s)")


if __name__ == "__main__":
    main()
