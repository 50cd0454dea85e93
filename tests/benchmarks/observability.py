"""Observability: what counting and tracing take of the throughput of a small net, behind a real edge.

Each variant is a HAProxy with the edge's configuration and a replica's server of its own, without Ray. All run at once,
and wrk turns to one after the other in short rounds, so that what else the machine does falls on all of them alike; a
ratio is the median of the ratios of each round to `off` in the same round. CPU time is the replica's and HAProxy's,
of `tracing` with the reader of the edge's log and the exporter too; it varies less than the throughput.

    python tests/benchmarks/observability.py [--rounds 10] [--seconds 3] [--json]
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

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local.ports import Ports
from deployments.access.authorization import Authorization
from deployments.edge.haproxy import HAProxy, make_private_dir
from deployments.edge.state import EdgeState, Listen, Member, Route
from deployments.edge.template import Files, render_config, write_files
from deployments.observability.access_log import AccessLog
from deployments.observability.edge_spans import EdgeSpans
from deployments.observability.observation import Observation
from deployments.observability.tracing import build_tracer
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.settings import ServingSettings, TracingSettings
from deployments.specs.model_deployment import ModelEndpoint
from tests.benchmarks.benchmark_cluster import require_tools, run_wrk, write_wrk_script
from tests.benchmarks.serving import INFER, save_mlp
from tests.deployments.callers import PEPPER, TESTER, digest
from tests.deployments.observability.otlp_receiver import run_receiver

OFF, METRICS, TRACING, TRACING_ALL = "off", "metrics", "tracing 1%", "tracing 100%"
SAMPLE_RATIOS = {TRACING: 0.01, TRACING_ALL: 1.0}
# By default, and all.
MAX_TRACES_PER_S = {TRACING: TracingSettings().max_traces_per_s, TRACING_ALL: 10**6}
VARIANTS = (OFF, METRICS, TRACING, TRACING_ALL)
CONNECTIONS, START_TIMEOUT_S = 64, 120
KEY, SECRET = "a key", "secret-of-the-edge"
PORTS = Ports()
Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each variant")
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--serve", nargs=4, metavar=("VARIANT", "FOLDER", "PORT", "OTLP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        variant, folder, port, endpoint = arguments.serve
        uvloop.run(serve(variant, Path(folder), int(port), endpoint))
        return
    require_tools()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name, run_receiver() as receiver:
        folder = Path(name)
        save_mlp(folder / "mlp")
        runs = measure(folder, receiver.endpoint, arguments.rounds, arguments.seconds, console)
        spans = len(receiver.spans)
    report(runs, spans, arguments)


def measure(folder: Path, endpoint: str, rounds: int, seconds: int, console: Console) -> Runs:
    """Run every variant in every round, each round in another order."""
    runs: Runs = {variant: [] for variant in VARIANTS}
    started = {variant: start(variant, folder, endpoint) for variant in VARIANTS}
    try:
        for variant, (process, script) in started.items():
            wait_until_it_answers(process, script, variant)
            run_wrk(script, 16, 2)
        for number in range(rounds):
            for variant in (VARIANTS[number % len(VARIANTS) :] + VARIANTS)[: len(VARIANTS)]:
                process, script = started[variant]
                with console.status(f"round {number + 1} of {rounds}: {variant}"):
                    before = measure_cpu_s(process.pid)
                    result = run_wrk(script, CONNECTIONS, seconds)
                    used_s = measure_cpu_s(process.pid) - before
                    runs[variant].append(result | {"cpu_us": 1e6 * used_s / (result["requests_per_s"] * seconds)})
    finally:
        for process, _ in started.values():
            process.send_signal(signal.SIGTERM)
        for process, _ in started.values():
            process.wait()
    return runs


def start(variant: str, folder: Path, endpoint: str) -> "tuple[subprocess.Popen[bytes], Path]":
    """Start a variant's processes; returns the one that is the parent of all, and wrk's script."""
    port, own = PORTS.pick_free(), folder / str(VARIANTS.index(variant))
    own.mkdir()
    process = subprocess.Popen([sys.executable, __file__, "--serve", variant, str(own), str(port), endpoint])
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/v2/models/mlp/infer"
    return process, write_wrk_script(own / "request.lua", url, json.dumps(INFER).encode(), headers)


def wait_until_it_answers(process: "subprocess.Popen[bytes]", script: Path, variant: str) -> None:
    """Wait for a variant's file `ready`."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not script.with_name("ready").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{variant} does not start")
        time.sleep(0.1)


def measure_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children so far."""
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def serve(variant: str, folder: Path, port: int, endpoint: str) -> None:
    """Run a replica's server and an edge in front of it, until terminated."""
    import torch

    from deployments.models.served_model import ServedModel
    from training.bundle.verify import verify_bundle

    torch.set_num_threads(1)
    tracing = (
        TracingSettings(
            endpoint=endpoint, sample_ratio=SAMPLE_RATIOS[variant], max_traces_per_s=MAX_TRACES_PER_S[variant]
        )
        if variant in SAMPLE_RATIOS
        else None
    )
    settings = ServingSettings(home=folder, tracing=tracing or TracingSettings())
    bundle = folder.parent / "mlp"
    specification = ModelEndpoint(name="mlp", version=1, digest=verify_bundle(bundle).digest, uri=str(bundle))
    model = ServedModel(specification, folder / "cache")
    observation = Observation(tracer=build_tracer(settings.tracing, "mlp", 1, "r1"))
    if observation.tracer:
        model.enable_tracing(observation.tracer)
    app = compose_http(ModelRoutes(model), specification.limits, SECRET, Authorization(), observation)
    if variant == OFF:
        leave_counting_out()
    server = HttpServer(app) if variant == OFF else HttpServer(app, observation.statistics.record_request)
    member = Member("replica", Route("mlp", 30.0), f"127.0.0.1:{await server.start('127.0.0.1')}", 1)
    edge = folder / "edge"
    make_private_dir(edge)
    access_log = None
    if observation.tracer:
        access_log = AccessLog(edge, 2**20, writes=False, on_traced=EdgeSpans(observation.tracer).add)
        access_log.start(asyncio.get_running_loop())
    haproxy = HAProxy(edge, access_log=access_log.descriptor if access_log else None)
    files = Files(edge, haproxy.next_admin_socket())
    state = EdgeState(1, True, (member.route,), (member,), {digest(KEY): TESTER}, "", SECRET, PEPPER)
    write_files(files, state, settings)
    await haproxy.start(render_config(state, settings, Listen("127.0.0.1", port, PORTS.pick_free()), files))
    # As Serve does in a replica.
    gc.collect()
    gc.freeze()
    (folder / "ready").touch()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await haproxy.stop()
    if observation.tracer:
        await asyncio.to_thread(observation.tracer.close)


def leave_counting_out() -> None:
    """What is counted of passes cannot be switched off: here it is replaced by nothing."""
    from deployments.models.batch_statistics import BatchStatistics

    BatchStatistics.record_pass = lambda *_: None  # type: ignore[method-assign]


def report(runs: Runs, spans: int, arguments: argparse.Namespace) -> None:
    """Print medians and ratios as a table and, with --json, as JSON."""
    table = Table("variant", "req/s", "of off", "p50", "p99", "CPU of a request", "of off", box=None)
    results = {}
    for variant, measurements in runs.items():
        medians = {key: statistics.median(each[key] for each in measurements) for key in measurements[0]}
        pairs = list(zip(measurements, runs[OFF], strict=True))
        medians["throughput_ratio"] = statistics.median(a["requests_per_s"] / b["requests_per_s"] for a, b in pairs)
        medians["cpu_ratio"] = statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in pairs)
        results[variant] = medians
        table.add_row(
            variant,
            f"{medians['requests_per_s']:,.0f}",
            f"{medians['throughput_ratio']:.3f}",
            f"{medians['p50_ms']:.2f} ms",
            f"{medians['p99_ms']:.2f} ms",
            f"{medians['cpu_us']:.1f} us",
            f"{medians['cpu_ratio']:.3f}",
        )
    console = Console()
    console.print(table)
    console.print(f"{spans:,} spans arrived", highlight=False)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        print(json.dumps({"variants": results, "spans": spans, "rounds": arguments.rounds, "machine": machine}))


if __name__ == "__main__":
    main()
