"""Autoscaling: cold starts taken apart, and a step of the load, from a sleeping model to eight replicas and back.

    python tests/benchmarks/autoscaling.py [--starts 5] [--seconds 30] [--plot autoscaling.png] [--json]

Cold starts: the first request of the CNN (28x28, digits-cnn's net) while it sleeps, in a new process and in a warm one.
The step: 1, 64, 1 and 0 connections, and 1 again that wakes it, with 32 rows a request, so that the replicas and not
the client are what is busy. They share this machine's cores with the client: the plot shows what scaling does, not how
much faster more machines are.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local.ray_environment import set_ray_environment
from cluster.local.running_cluster import Cluster, require_cluster
from cluster.rollout.serve_api import ServeApi
from cluster.settings import Settings
from deployments.control.summary import count_running_replicas
from deployments.scaling.report import ReplicaReport
from tests.benchmarks.benchmark_cluster import BenchmarkCluster, encode_request
from tests.benchmarks.closed_loop import ClosedLoop
from tests.benchmarks.nets import save_benchmark_bundle
from tests.conftest import wait_until
from tests.open_loop import encode_request as encode_http

MODEL = "cnn"
PHASES = ("schedule", "process", "imports", "fetch", "load", "warm_up", "join")
SLEEP_S = 6.0
TARGET_ONGOING, MAX_REPLICAS = 8, 8
WARM_VARIABLE = "SHOAL_SCALING__WARM_PROCESSES"


class Moment(NamedTuple):
    """What was seen at one time: replicas that run, rows that wait in them."""

    at_s: float
    replicas: int
    queued_rows: int


class Observer:
    """Reads the replicas' reports and Serve's status of one cluster."""

    def __init__(self, cluster: BenchmarkCluster) -> None:
        settings = Settings(home=cluster.home, http_port=0, dashboard_port=0, ray_port=0)
        self._running: Cluster = require_cluster(settings)
        self._serve = ServeApi(settings, self._running)
        # Ray reads its switches when it is imported.
        set_ray_environment(settings)
        import ray

        from deployments.edge.directory import get_directory

        self._ray, self._get_directory = ray, get_directory
        ray.init(address=f"127.0.0.1:{self._running.gcs_port}", log_to_driver=False, logging_level="ERROR")

    def close(self) -> None:
        self._ray.shutdown()

    def list_reports(self) -> list[ReplicaReport]:
        reports = self._ray.get(self._get_directory().list_reports.remote())
        return [report for member, report in reports if member.route.name == MODEL]

    def count_replicas(self) -> int:
        return count_running_replicas(self._serve.fetch_applications()[MODEL])

    def wait_until_asleep(self) -> None:
        if not wait_until(lambda: not self.list_reports() and self.count_replicas() == 0, 180):
            sys.exit(f"{MODEL} does not sleep: {self.count_replicas()} replicas")

    def observe(self) -> Moment:
        reports = self.list_reports()
        return Moment(time.monotonic(), self.count_replicas(), sum(each.passes.queued_rows for each in reports))


def main() -> None:
    """Measure, print tables, write the plot, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="cold starts of each kind")
    parser.add_argument("--seconds", type=int, default=30, help="length of each step of the load")
    parser.add_argument("--plot", type=Path, default=Path("autoscaling.png"), help="where the plot goes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    starts: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        rows = save_benchmark_bundle(MODEL, folder / MODEL).numpy()
        for kind, warm in (("a warm process", "1"), ("a new process", "0")):
            os.environ[WARM_VARIABLE] = warm
            with BenchmarkCluster(folder) as cluster, contextlib.closing(Observer(cluster)) as observer:
                deploy(cluster, folder / MODEL, "--downscale-delay", "0", "--downscale-to-zero-delay", str(SLEEP_S))
                body, headers = encode_request(rows[:1])
                request = encode(cluster, body, headers)
                starts[kind] = [measure_start(cluster, observer, request) for _ in range(arguments.starts)]
                if warm == "0":
                    deploy(cluster, folder / MODEL, "--downscale-delay", "8", "--downscale-to-zero-delay", "10")
                    body, headers = encode_request(np.repeat(rows, 16, axis=0))
                    step = measure_step(cluster, observer, encode(cluster, body, headers), arguments.seconds)
    report(starts, step, arguments)


def deploy(cluster: BenchmarkCluster, bundle: Path, *options: str) -> None:
    bounds = ("--min-replicas", "0", "--max-replicas", str(MAX_REPLICAS), "--target", str(TARGET_ONGOING))
    cluster.deploy(bundle, MODEL, *bounds, "--cpus", "0.1", *options)


def encode(cluster: BenchmarkCluster, body: bytes, headers: dict[str, str]) -> bytes:
    return encode_http(cluster.url, f"/v2/models/{MODEL}/infer", body, headers | {"authorization": cluster.key})


def measure_start(cluster: BenchmarkCluster, observer: Observer, request: bytes) -> dict[str, float]:
    """Wake the model once; returns the seconds of the first request, and of each phase of the replica's start."""
    observer.wait_until_asleep()
    # A warm process is replaced some seconds after it got its model.
    time.sleep(2 * SLEEP_S if os.environ[WARM_VARIABLE] != "0" else 1)
    with ClosedLoop(cluster.url, request) as load:
        load.set_connections(1)
        wait_until(lambda: bool(load.samples), 60)
    first = load.samples[0]
    if first.outcome != "200":
        sys.exit(f"the first request: {first.outcome}")
    wait_until(lambda: any("join" in each.start_phases for each in observer.list_reports()), 10)
    phases = observer.list_reports()[0].start_phases
    return {"total": first.latency_s, "schedule": first.latency_s - sum(phases.values())} | phases


def measure_step(cluster: BenchmarkCluster, observer: Observer, request: bytes, seconds: int) -> dict[str, Any]:
    """Run the step; returns the requests that failed, and one row for each second."""
    observer.wait_until_asleep()
    moments: list[Moment] = []
    marks: list[tuple[float, int]] = []
    with ClosedLoop(cluster.url, request) as load:
        started_s = time.monotonic()

        def watch(duration_s: float, is_done: Any = lambda moment: False) -> None:
            end_s = time.monotonic() + duration_s
            while time.monotonic() < end_s:
                moments.append(observer.observe())
                if is_done(moments[-1]):
                    return
                time.sleep(0.4)

        for connections in (1, 64, 1, 0, 1):
            marks.append((time.monotonic() - started_s, connections))
            load.set_connections(connections)
            watch(seconds if connections else 60, lambda moment, idle=not connections: idle and moment.replicas == 0)
    samples = [(sample.ended_s - started_s, sample.latency_s, sample.outcome) for sample in load.samples]
    outcomes = {name: sum(each[2] == name for each in samples) for name in {each[2] for each in samples}}
    timeline = [
        summarize_second(second, samples, moments, started_s) for second in range(int(time.monotonic() - started_s))
    ]
    return {
        "requests": len(samples),
        "failed": len(samples) - outcomes.get("200", 0),
        "outcomes": outcomes,
        "max_replicas": max(moment.replicas for moment in moments),
        "connections": marks,
        "timeline": timeline,
    }


def summarize_second(
    second: int, samples: list[tuple[float, float, str]], moments: list[Moment], started_s: float
) -> dict[str, Any]:
    """What happened in one second, by the ends of its requests."""
    ended = [each for each in samples if second <= each[0] < second + 1]
    latencies = [latency_s for _, latency_s, outcome in ended if outcome == "200"]
    seen = [moment for moment in moments if moment.at_s - started_s < second + 1]
    return {
        "at_s": second,
        "requests": len(ended),
        "errors": sum(outcome != "200" for _, _, outcome in ended),
        "p50_s": float(np.quantile(latencies, 0.5)) if latencies else None,
        "p99_s": float(np.quantile(latencies, 0.99)) if latencies else None,
        "replicas": seen[-1].replicas if seen else 0,
        "queued_rows": seen[-1].queued_rows if seen else 0,
    }


def plot(step: dict[str, Any], file: Path) -> None:
    """Draw replicas, latencies, queue and errors over time."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    timeline = step["timeline"]
    at_s = [row["at_s"] for row in timeline]
    replicas, latency, queue, errors = figure.subplots(4, sharex=True)
    replicas.step(at_s, [row["replicas"] for row in timeline], where="post")
    replicas.set_ylabel("replicas")
    for name in ("p50_s", "p99_s"):
        latency.plot(at_s, [np.nan if row[name] is None else row[name] for row in timeline], label=name[:3])
    latency.set(ylabel="latency (s)", yscale="log")
    latency.legend()
    queue.plot(at_s, [row["queued_rows"] for row in timeline])
    queue.set_ylabel("rows in queue")
    errors.plot(at_s, [row["requests"] for row in timeline], label="requests/s")
    errors.plot(at_s, [row["errors"] for row in timeline], color="red", label="errors/s")
    errors.set(xlabel="s", ylabel="requests")
    errors.legend()
    for axes in (replicas, latency, queue, errors):
        for mark_s, _ in step["connections"]:
            axes.axvline(mark_s, color="gray", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    for mark_s, connections in step["connections"]:
        replicas.annotate(f" {connections} conn.", (mark_s, 1), xycoords=("data", "axes fraction"), va="top")
    replicas.set_title(f"{step['requests']} requests, {step['failed']} failed")
    figure.savefig(file, dpi=110)


def report(starts: dict[str, list[dict[str, float]]], step: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print tables, write the plot, and with --json print one object as the last line."""
    median = functools.partial(statistics.median)
    table = Table("seconds, median", *starts)
    medians = {
        kind: {phase: round(median(each.get(phase, 0.0) for each in runs), 3) for phase in ("total", *PHASES)}
        for kind, runs in starts.items()
    }
    for phase in ("total", *PHASES):
        table.add_row(phase, *(f"{values[phase]:.2f}" for values in medians.values()))
    console = Console()
    console.print(table)
    changes = [row for row, before in zip(step["timeline"][1:], step["timeline"], strict=False)
               if row["replicas"] != before["replicas"]]  # fmt: skip
    console.print(f"{step['requests']} requests, {step['failed']} failed: {step['outcomes']}")
    console.print("replicas: " + ", ".join(f"{row['replicas']} at {row['at_s']} s" for row in changes))
    plot(step, arguments.plot)
    console.print(f"plot: {arguments.plot}")
    if arguments.json:
        print(json.dumps({"cold_starts_s": medians, "starts": starts, "step": step, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
