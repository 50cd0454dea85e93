"""Tenancy: what limits take of the throughput of a small net, and how far one tenant's flood moves another's latency.

Each variant is a replica's server of its own, without edge and Ray: `off` has no limits; `others` has some, of a key
that does not call; `limited` has six of the caller's key and tenant, with the ledger and its database in the same
process, so that what they take is counted too. All run at once, and wrk turns to one after the other in short rounds;
a ratio is the median of the ratios of each round to `off` in the same round. For fairness, one connection of a tenant
calls a replica that another tenant keeps busy, by NORMAL connections and by FLOOD times as many.

    python tests/benchmarks/tenancy.py [--rounds 10] [--seconds 3] [--json]
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from deployments.access.authorization import Authorization
from deployments.server.edge_check import CALLER_HEADER, SECRET_HEADER
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.specs.model_deployment import ModelEndpoint
from tests.benchmarks.benchmark_cluster import require_tools, run_wrk, write_wrk_script
from tests.benchmarks.serving import INFER, save_mlp
from tests.deployments.callers import encode_caller
from tests.deployments.server.local_ledger import SECRET, LocalLedger

OFF, OTHERS, LIMITED = "off", "others", "limited"
PLENTY = {"requests/day": "1000000000", "rows/month": "1000000000"}
LIMITS: dict[str, dict[str, dict[str, str]]] = {
    OFF: {},
    OTHERS: {"key:somebody": PLENTY},
    LIMITED: {"key:ci": PLENTY | {"requests/second": "1000000"}, "tenant:acme": PLENTY | {"concurrent": "10000"}},
}
VARIANTS = (OFF, OTHERS, LIMITED)
CONNECTIONS, START_TIMEOUT_S = 64, 120
# The latter are more than the places that a replica has for one of two tenants.
NORMAL, FLOOD = 4, 100
Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each variant")
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--serve", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        variant, folder = arguments.serve
        uvloop.run(serve(variant, Path(folder)))
        return
    require_tools()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        save_mlp(folder / "mlp")
        runs, latencies = measure(folder, arguments.rounds, arguments.seconds, console)
    report(runs, latencies, arguments)


def measure(folder: Path, rounds: int, seconds: int, console: Console) -> tuple[Runs, dict[str, list[float]]]:
    """Run every variant in every round, each round in another order; then the flood."""
    runs: Runs = {variant: [] for variant in VARIANTS}
    processes = {variant: start(variant, folder) for variant in VARIANTS}
    try:
        ports = {variant: wait_for_port(folder / variant, processes[variant]) for variant in VARIANTS}
        scripts = {variant: write_script(folder / f"{variant}.lua", ports[variant], "acme/ci") for variant in VARIANTS}
        for script in scripts.values():
            run_wrk(script, 16, 2)
        for number in range(rounds):
            for variant in (VARIANTS[number % len(VARIANTS) :] + VARIANTS)[: len(VARIANTS)]:
                with console.status(f"round {number + 1} of {rounds}: {variant}"):
                    busy, single = (run_wrk(scripts[variant], connections, seconds) for connections in (CONNECTIONS, 1))
                    runs[variant].append(
                        {"requests_per_s": busy["requests_per_s"], "p99_ms": busy["p99_ms"], "p50_ms": single["p50_ms"]}
                    )
        latencies = measure_flood(folder, ports[OFF], rounds, seconds, console)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait()
    return runs, latencies


def measure_flood(folder: Path, port: int, rounds: int, seconds: int, console: Console) -> dict[str, list[float]]:
    """The p99 in milliseconds of one connection of a tenant, beside another tenant's normal load and its flood."""
    quiet, loud = (write_script(folder / f"{name}.lua", port, f"{name}/key") for name in ("quiet", "loud"))
    latencies: dict[str, list[float]] = {"normal": [], "flood": []}
    for number in range(rounds):
        for load, connections in (("normal", NORMAL), ("flood", NORMAL * FLOOD)):
            with console.status(f"flood, round {number + 1} of {rounds}: {load}"):
                url = loud.read_text().splitlines()[0].removeprefix("-- ")
                # Its refusals are expected.
                command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds + 2}", "-s", str(loud), url]
                with subprocess.Popen(command, stdout=subprocess.DEVNULL) as other:
                    time.sleep(1)
                    latencies[load].append(run_wrk(quiet, 1, seconds)["p99_ms"])
                    other.wait()
    return latencies


def start(variant: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a variant's process."""
    (folder / variant).mkdir()
    return subprocess.Popen([sys.executable, __file__, "--serve", variant, str(folder / variant)])


def wait_for_port(folder: Path, process: "subprocess.Popen[bytes]") -> int:
    """The port of a variant, once it is warm."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (folder / "port").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{folder.name} does not start")
        time.sleep(0.1)
    return int((folder / "port").read_text())


def write_script(file: Path, port: int, caller: str) -> Path:
    """Write wrk's script of a caller, as the edge sends its requests."""
    headers = {
        SECRET_HEADER.decode(): SECRET,
        CALLER_HEADER.decode(): encode_caller(caller),
        "Content-Type": "application/json",
    }
    url = f"http://127.0.0.1:{port}/v2/models/mlp/infer"
    return write_wrk_script(file, url, json.dumps(INFER).encode(), headers)


async def serve(variant: str, folder: Path) -> None:
    """Run a replica's server, until terminated."""
    import torch

    from deployments.models.served_model import ServedModel
    from training.bundle.verify import verify_bundle

    torch.set_num_threads(1)
    bundle = folder.parent / "mlp"
    specification = ModelEndpoint(name="mlp", version=1, digest=verify_bundle(bundle).digest, uri=str(bundle))
    model = ServedModel(specification, folder / "cache")
    accounts = await LocalLedger(folder, LIMITS[variant]).open_accounts("replica")
    app = compose_http(ModelRoutes(model), specification.limits, SECRET, Authorization("mlp"), accounts=accounts)
    server = HttpServer(app)
    port = await server.start("127.0.0.1")
    # As Serve does in a replica.
    gc.collect()
    gc.freeze()
    (folder / "port.new").write_text(str(port))
    (folder / "port.new").rename(folder / "port")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await accounts.stop()
    await server.drain(1)


def report(runs: Runs, latencies: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    """Print medians and ratios as a table and, with --json, as JSON."""
    table = Table("variant", "req/s", "of off", "p99", "p50, 1 connection", "more than off", box=None)
    results = {}
    for variant, measurements in runs.items():
        medians = {key: statistics.median(each[key] for each in measurements) for key in measurements[0]}
        pairs = list(zip(measurements, runs[OFF], strict=True))
        medians["throughput_ratio"] = statistics.median(a["requests_per_s"] / b["requests_per_s"] for a, b in pairs)
        medians["p50_more_ms"] = statistics.median(a["p50_ms"] - b["p50_ms"] for a, b in pairs)
        results[variant] = medians
        table.add_row(
            variant,
            f"{medians['requests_per_s']:,.0f}",
            f"{medians['throughput_ratio']:.3f}",
            f"{medians['p99_ms']:.2f} ms",
            f"{medians['p50_ms']:.3f} ms",
            f"{medians['p50_more_ms']:+.3f} ms",
        )
    p99_ms = {load: statistics.median(values) for load, values in latencies.items()}
    console = Console()
    console.print(table)
    ratio = p99_ms["flood"] / p99_ms["normal"]
    console.print(
        f"a tenant's p99: {p99_ms['normal']:.2f} ms beside another one, {p99_ms['flood']:.2f} ms beside its flood "
        f"({ratio:.2f}x)",
        highlight=False,
    )
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        fairness = {f"{load}_p99_ms": value for load, value in p99_ms.items()} | {"ratio": ratio}
        print(json.dumps({"variants": results, "fairness": fairness, "rounds": arguments.rounds, "machine": machine}))


if __name__ == "__main__":
    main()
