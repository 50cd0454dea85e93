"""Compute: nets whose forward pass is the work, served, beside the same nets in a bare torch loop on the same cores.

The loop runs alone, at the batch size that suits it best, in a thread for each core; served, each core has a replica of
one thread. Rows come one a request over 16 connections (32 a request for the small net), as bytes or as tokens; client,
HAProxy and the replicas' event loops have to find their time on the cores that the net wants.

    python tests/benchmarks/compute.py [--seconds 15] [--rounds 3] [--nets cnn resnet18 transformer] [--json]
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
from training import bundle

CONNECTIONS = 16
ROWS = {"cnn": 32, "resnet18": 1, "transformer": 1}
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=15, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each net is measured, both ways in turn")
    parser.add_argument("--nets", nargs="+", default=list(ROWS), choices=list(ROWS), help="which nets")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    stand.require()
    torch.set_num_threads(os.cpu_count() or 1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.nets}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        rows = {net: nets.save(net, folder / net) for net in arguments.nets}
        for _ in range(arguments.rounds):
            for net in arguments.nets:
                bare = loop(bundle.load(folder / net).net, rows[net], arguments.seconds)
                found[net].append(bare | served(folder, net, rows[net], arguments.seconds))
    report(found, arguments)


def loop(net: nn.Module, x: Tensor, seconds: float) -> dict[str, float]:
    """Rows per second of a bare loop at its best batch size."""
    rates = {}
    with torch.inference_mode():
        for size in BATCHES:
            x_B = x[:1].expand(size, *x.shape[1:]).contiguous()
            net(x_B)
            passes, start = 0, time.perf_counter()
            while passes < 2 or time.perf_counter() - start < seconds / len(BATCHES):
                net(x_B)
                passes += 1
            rates[size] = passes * size / (time.perf_counter() - start)
    best = max(rates, key=lambda size: rates[size])
    return {"loop_rows_per_s": rates[best], "loop_batch": best}


def served(folder: Path, net: str, x: Tensor, seconds: int) -> dict[str, float]:
    """Rows per second over HTTP, with latencies and whose time it took."""
    with Stand(folder) as cluster:
        if not (folder / f"{net}.published").exists():
            cluster.run("models", "import", str(folder / net))
            (folder / f"{net}.published").touch()
        # A replica for each core, of one thread: no pass waits for a thread that the event loop, HAProxy or the client
        # has just put aside.
        cores = str(os.cpu_count())
        cluster.run("deploy", net, "--cpus", "1", "--min-replicas", cores, "--max-replicas", cores)
        body, headers = request(x, ROWS[net])
        script = cluster.script(f"{net}/infer", body, headers)
        stand.wrk(script, CONNECTIONS, 3)
        measured = cluster.measure(script, CONNECTIONS, seconds)
        cluster.run("undeploy", net)
    return measured | {"rows_per_s": measured["requests_per_s"] * ROWS[net]}


def request(x: Tensor, rows: int) -> tuple[bytes, dict[str, str]]:
    """So many rows as a binary request."""
    array = np.repeat(x[:1].numpy(), rows, axis=0)
    datatype = {np.dtype(np.uint8): "UINT8", np.dtype(np.int64): "INT64"}[array.dtype]
    tensor = {"name": "input", "shape": list(array.shape), "datatype": datatype}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return header + array.tobytes(), kind


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
