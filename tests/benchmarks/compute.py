"""Compute: nets whose forward pass is the work, served, beside the same nets in a bare torch loop on the same cores.

The loop runs at the batch size that suits it best, in a thread for each core, and has the machine to itself: the
cluster is held meanwhile. Served, each core has a replica of one thread. Rows come one a request over 16 connections
(32 a request for the small net), as bytes or as tokens; client, HAProxy, the replicas' event loops and Ray's own
processes have to find their time on the cores that the net wants. The two take turns of seconds, so that both meet the
same moods of a shared machine.

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

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks import nets, stand
from tests.benchmarks.stand import Stand
from training.bundle.load import load_bundle

CONNECTIONS = 16
ROWS = {"cnn": 32, "resnet18": 1, "transformer": 1}
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="how often loop and server take turns for each net")
    parser.add_argument("--seconds", type=int, default=12, help="length of a turn of the server; the loop's is half")
    parser.add_argument("--nets", nargs="+", default=list(ROWS), choices=list(ROWS), help="which nets")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    stand.require()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name, Stand(Path(name)) as cluster:
        found = {net: measure(cluster, net, arguments.turns, arguments.seconds) for net in arguments.nets}
    report(found, arguments)


def measure(cluster: Stand, name: str, turns: int, seconds: int) -> list[dict[str, float]]:
    """Turns of one net: rows per second of the loop, and over HTTP with latencies and whose time it took."""
    x = nets.save_benchmark_bundle(name, cluster.folder / name)
    net = load_bundle(cluster.folder / name).net
    # A replica for each core, of one thread: no pass waits for a thread that the event loop, HAProxy or the client has
    # just put aside.
    cores = str(os.cpu_count())
    cluster.serve(cluster.folder / name, name, "--cpus", "1", "--min-replicas", cores, "--max-replicas", cores)
    body, headers = stand.request(np.repeat(x[:1].numpy(), ROWS[name], axis=0))
    script = cluster.script(f"{name}/infer", body, headers)
    rates: dict[int, list[float]] = {size: [] for size in BATCHES}
    for _ in range(3):
        for size, found in rates.items():
            with cluster.held():
                found.append(loop(net, x, size, 0.5))
    best = max(BATCHES, key=lambda size: statistics.median(rates[size]))
    stand.wrk(script, CONNECTIONS, 3)
    measured = []
    for _ in range(turns):
        with cluster.held():
            bare = loop(net, x, best, seconds / 2)
        stand.wrk(script, CONNECTIONS, 1)
        # What the warm-up has left behind is given up, or computed for nobody.
        time.sleep(1)
        served = cluster.measure(script, CONNECTIONS, seconds)
        served |= {"rows_per_s": served["requests_per_s"] * ROWS[name]}
        measured.append(served | {"loop_rows_per_s": bare, "loop_batch": best})
    cluster.run("undeploy", name)
    return measured


def loop(net: nn.Module, x: Tensor, size: int, seconds: float) -> float:
    """Rows per second of a bare loop over batches of one size."""
    with torch.inference_mode():
        x_B = x[:1].expand(size, *x.shape[1:]).contiguous()
        net(x_B)
        passes, start = 0, time.perf_counter()
        while passes < 2 or time.perf_counter() - start < seconds:
            net(x_B)
            passes += 1
        return passes * size / (time.perf_counter() - start)


def report(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Print medians as a table and, if asked, all as JSON."""
    table = Table(
        "net", "rows a request", "bare loop rows/s (batch)", "served rows/s", "share", "p50", "p99/p50", box=None
    )
    told: dict[str, Any] = {}
    for net, runs in found.items():
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
        told[net] = median | {"share": round(share, 3), "tail": round(tail, 2)}
    Console().print(table)
    if arguments.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
