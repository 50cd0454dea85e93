"""Compute-bound nets: throughput of Shoal compared with a bare torch loop of the same net on the same cores.

The loop runs at its fastest batch size, with a thread per core, while the cluster is suspended. Served, there is a
replica of one thread per core. Requests have one row each (32 for the small net), as bytes or tokens, over 16
connections; client, HAProxy, the replicas' event loops and Ray's own processes run on the same cores. Loop and server
alternate every few seconds, so that both get the same share of a machine whose speed varies.

    python tests/benchmarks/compute.py [--turns 5] [--seconds 12] [--nets cnn resnet18 transformer] [--json]
"""
# Shapes: B rows of a batch.

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks import benchmark_cluster, nets
from tests.benchmarks.benchmark_cluster import BenchmarkCluster
from training.bundle.load import load_bundle

CONNECTIONS = 16
ROWS = {"cnn": 32, "resnet18": 1, "transformer": 1}
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="turns of loop and server for each net")
    parser.add_argument("--seconds", type=int, default=12, help="length of the server's turn; the loop's is half")
    parser.add_argument("--nets", nargs="+", default=list(ROWS), choices=list(ROWS), help="nets to measure")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    benchmark_cluster.require_tools()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name, BenchmarkCluster(Path(name)) as cluster:
        results = {net: measure(cluster, net, arguments.turns, arguments.seconds) for net in arguments.nets}
    report(results, arguments)


def measure(cluster: BenchmarkCluster, name: str, turns: int, seconds: int) -> list[dict[str, float]]:
    """Measure one net in turns: rows per second of the loop and over HTTP, latencies, and CPU time per request."""
    x = nets.save_benchmark_bundle(name, cluster.folder / name)
    net = load_bundle(cluster.folder / name).net
    # A replica of one thread per core: with several threads, a pass would wait for one that the event loop, HAProxy or
    # the client preempts.
    cores = str(os.cpu_count())
    cluster.deploy(cluster.folder / name, name, "--cpus", "1", "--min-replicas", cores, "--max-replicas", cores)
    body, headers = benchmark_cluster.encode_request(np.repeat(x[:1].numpy(), ROWS[name], axis=0))
    script = cluster.write_script(f"{name}/infer", body, headers)
    rates: dict[int, list[float]] = {size: [] for size in BATCHES}
    for _ in range(3):
        for size, loop_rates in rates.items():
            with cluster.suspend():
                loop_rates.append(run_loop(net, x, size, 0.5))
    best_size = max(BATCHES, key=lambda size: statistics.median(rates[size]))
    benchmark_cluster.run_wrk(script, CONNECTIONS, 3)
    measured = []
    for _ in range(turns):
        with cluster.suspend():
            loop_rate = run_loop(net, x, best_size, seconds / 2)
        benchmark_cluster.run_wrk(script, CONNECTIONS, 1)
        # The requests that the warm-up left are canceled or completed.
        time.sleep(1)
        served = cluster.measure(script, CONNECTIONS, seconds)
        served |= {"rows_per_s": served["requests_per_s"] * ROWS[name]}
        measured.append(served | {"loop_rows_per_s": loop_rate, "loop_batch": best_size})
    cluster.run("undeploy", name)
    return measured


def run_loop(net: nn.Module, x: Tensor, size: int, seconds: float) -> float:
    """Run a bare loop over batches of one size; returns rows per second."""
    with torch.inference_mode():
        x_B = x[:1].expand(size, *x.shape[1:]).contiguous()
        net(x_B)
        passes, start = 0, time.perf_counter()
        while passes < 2 or time.perf_counter() - start < seconds:
            net(x_B)
            passes += 1
        return passes * size / (time.perf_counter() - start)


def report(results: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Print medians as a table and, with --json, as JSON."""
    table = Table(
        "net", "rows/request", "bare loop rows/s (batch)", "served rows/s", "share", "p50", "p99/p50", box=None
    )
    summary: dict[str, Any] = {}
    for net, runs in results.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        share = statistics.median(run["rows_per_s"] / run["loop_rows_per_s"] for run in runs)
        tail = statistics.median(run["p99_ms"] / run["p50_ms"] for run in runs)
        table.add_row(
            net,
            str(ROWS[net]),
            f"{median['loop_rows_per_s']:,.1f} ({median['loop_batch']:.0f})",
            f"{median['rows_per_s']:,.1f}",
            f"{share:.2f}",
            f"{median['p50_ms']:.0f} ms",
            f"{tail:.2f}",
        )
        summary[net] = median | {"share": round(share, 3), "tail": round(tail, 2)}
    Console().print(table)
    if arguments.json:
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
