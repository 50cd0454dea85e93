"""Overload: what a model answers in time when it gets up to ten times as many requests as it can compute.

One replica behind the edge, a net that a core computes some hundred times a second, and the open-loop client of
tests/open_loop.py: arrivals do not wait for answers, so that a queue that only grows would show. Every request has a
deadline in its header. The capacity is that of a closed loop (wrk). Client, edge and replica share this machine.

    python tests/benchmarks/overload.py [--seconds 10] [--deadline 0.5] [--loads 0.5,1,2,5,10] [--plot FILE] [--json]
"""
# Shapes: B rows, F features.

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks.benchmark_cluster import BenchmarkCluster, encode_request, require_tools
from tests.load_outcomes import Outcomes
from tests.open_loop import OpenLoop, Step, schedule_arrivals
from tests.open_loop import encode_request as encode_http
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, TableInput

FEATURES, WIDTH, DEPTH = 16, 1024, 128
NAME, PATH = "heavy", "heavy/infer"
CONNECTIONS = 64
SETTLE_S = 2.0


class Heavy(nn.Module):
    """About 270 MFLOP for a row, with weights that stay in the cache: one layer, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F) to (B, 2)."""
        y = self.first(x)
        for _ in range(DEPTH):
            y = torch.relu(self.layer(y))
        out: Tensor = self.last(y)
        return out


def main() -> None:
    """Measure, plot, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="length of each load")
    parser.add_argument("--deadline", type=float, default=0.5, help="seconds that every request has")
    parser.add_argument("--loads", default="0.5,1,2,5,10", help="multiples of the capacity")
    parser.add_argument("--plot", type=Path, default=Path(tempfile.gettempdir()) / "overload.png", help="PNG file")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    require_tools()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        save_heavy(Path(name) / "bundle")
        console.print("starting a cluster")
        with BenchmarkCluster(Path(name)) as cluster:
            cluster.deploy(Path(name) / "bundle", NAME)
            capacity = measure_capacity(cluster, arguments.seconds)
            console.print(f"capacity: {capacity:.0f} requests/s")
            rows = []
            for load in map(float, arguments.loads.split(",")):
                rows.append(measure(cluster, f"{load:g}x", load * capacity, arguments, share_of_batch=0.0))
                console.print(rows[-1])
            mixed = measure(cluster, "2x, half batch", 2 * capacity, arguments, share_of_batch=0.5)
    add_shares(rows, capacity)
    plot(rows, capacity, arguments.deadline, arguments.plot)
    report([*rows, mixed], capacity, arguments)


def save_heavy(folder: Path) -> None:
    """Save the bundle."""
    torch.manual_seed(0)
    features = tuple(f"f{number}" for number in range(FEATURES))
    info = ModelInfo(
        name=NAME,
        task="tabular-classification",
        input_schema=TableInput(features=features),
        output_schema=ClassOutput(labels=("no", "yes")),
    )
    save_bundle(folder, Heavy().eval(), inputs=torch.rand(2, FEATURES), info=info)


def measure_capacity(cluster: BenchmarkCluster, seconds: float) -> float:
    """Requests per second of a closed loop, whose requests have no deadline."""
    body, headers = encode_request(np.random.default_rng(0).random((1, FEATURES), np.float32))
    script = cluster.write_script(PATH, body, headers)
    cluster.measure(script, CONNECTIONS, 3)
    return statistics.median(
        cluster.measure(script, CONNECTIONS, max(3, int(seconds / 2)))["requests_per_s"] for _ in range(3)
    )


def measure(
    cluster: BenchmarkCluster, name: str, rate: float, arguments: argparse.Namespace, share_of_batch: float
) -> dict[str, Any]:
    """Offer one load; returns what became of it."""
    arrivals_s = schedule_arrivals([Step(arguments.seconds, rate)], "poisson", seed=1)
    is_batch = np.random.default_rng(2).random(len(arrivals_s)) < share_of_batch
    time.sleep(SETTLE_S)
    before = cluster.measure_cpu_s()
    with OpenLoop(cluster.url, arrivals_s, encode(cluster, arguments.deadline, is_batch), timeout_s=30) as load:
        load.wait()
    after = cluster.measure_cpu_s()
    outcomes, deadline_s = load.outcomes, arguments.deadline
    row: dict[str, Any] = {"load": name, **outcomes.summarize(deadline_s)}
    row["late_answers"] = int((outcomes.latency_s[outcomes.is_ok] > deadline_s).sum())
    row["errors_5xx"] = int((outcomes.status >= 500).sum())
    row["without_status"] = int((outcomes.status == 0).sum())
    row["refused"] = int((outcomes.status == 429).sum())
    row["refusal_p50_s"] = (
        round(float(np.median(outcomes.latency_s[outcomes.status == 429])), 5) if row["refused"] else 0.0
    )
    row["replica_cpu_s"] = round(after["replica"] - before["replica"], 3)
    if share_of_batch:
        row["interactive"] = describe(outcomes.select(~is_batch), deadline_s)
        row["batch"] = describe(outcomes.select(is_batch), deadline_s)
    return row


def describe(outcomes: Outcomes, deadline_s: float) -> dict[str, Any]:
    """What became of one priority."""
    in_time = (outcomes.latency_s <= deadline_s) & outcomes.is_ok
    return {"requests": len(outcomes), "in_time_share": round(float(in_time.mean()), 3), "outcomes": outcomes.count()}


def encode(cluster: BenchmarkCluster, deadline_s: float, is_batch: np.ndarray) -> Callable[[int], bytes]:
    """Encode both kinds of request once."""
    body, headers = encode_request(np.random.default_rng(0).random((1, FEATURES), np.float32))
    headers |= {"authorization": cluster.key, "x-request-timeout-seconds": f"{deadline_s:g}"}
    interactive, batch = (
        encode_http(cluster.url, f"/v2/models/{PATH}", body, headers | {"x-request-priority": priority})
        for priority in ("interactive", "batch")
    )
    return lambda index: batch if is_batch[index] else interactive


def add_shares(rows: list[dict[str, Any]], capacity: float) -> None:
    """Add each load's share of the peak, and what a refusal costs the replica beside an answer."""
    peak = max(row["goodput_per_s"] for row in rows)
    answers_only = min(rows, key=lambda row: abs(row["offered_per_s"] / capacity - 0.5))
    answer_s = answers_only["replica_cpu_s"] / max(1, answers_only["outcomes"].get("200", 0))
    for row in rows:
        row["share_of_peak"] = round(row["goodput_per_s"] / peak, 3)
        rest_s = row["replica_cpu_s"] - answer_s * row["outcomes"].get("200", 0)
        is_overload = row["refused"] > row["outcomes"].get("200", 0)
        row["refusal_cpu_share"] = round(rest_s / row["refused"] / answer_s, 3) if is_overload else None


def plot(rows: list[dict[str, Any]], capacity: float, deadline_s: float, file: Path) -> None:
    """Plot goodput and latency over the load."""
    mpl.use("agg")
    figure = Figure(figsize=(10, 4), layout="constrained")
    goodput, latency = figure.subplots(1, 2)
    offered = [row["offered_per_s"] for row in rows]
    goodput.plot(offered, [row["goodput_per_s"] for row in rows], "o-", label="answered in time")
    goodput.plot(offered, [row["refused"] / row["requests"] * row["offered_per_s"] for row in rows], "s--", label="429")
    goodput.axhline(capacity, color="gray", linestyle=":", label="capacity (closed loop)")
    goodput.set(xlabel="requests offered per second", ylabel="per second", xscale="log", ylim=(0, None))
    for quantile in ("p50_s", "p99_s"):
        latency.plot(offered, [row[quantile] for row in rows], "o-", label=f"{quantile[:3]} of answers")
    latency.plot(offered, [row["refusal_p50_s"] for row in rows], "s--", label="p50 of refusals")
    latency.axhline(deadline_s, color="gray", linestyle=":", label="deadline")
    latency.set(xlabel="requests offered per second", ylabel="seconds", xscale="log", ylim=(0, None))
    for axes in (goodput, latency):
        axes.legend()
    figure.savefig(file, dpi=120)


def report(rows: list[dict[str, Any]], capacity: float, arguments: argparse.Namespace) -> None:
    """Print a table and, with --json, JSON."""
    columns = ("load", "offered/s", "in time/s", "of peak", "429", "5xx", "none", "p50", "p99", "p99 send lag")
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(
            row["load"],
            f"{row['offered_per_s']:,.0f}",
            f"{row['goodput_per_s']:,.0f}",
            f"{row.get('share_of_peak', math.nan):.2f}",
            *(f"{row[key]:,}" for key in ("refused", "errors_5xx", "without_status")),
            *(f"{1000 * row[key]:,.0f} ms" for key in ("p50_s", "p99_s", "send_lag_p99_s")),
        )
    console = Console()
    console.print(table)
    mixed = rows[-1]
    for priority in ("interactive", "batch"):
        console.print(f"{mixed['load']}: {mixed[priority]['in_time_share']:.0%} of {priority} in time")
    console.print(f"capacity {capacity:,.0f}/s, deadline {arguments.deadline:g} s; plot: {arguments.plot}")
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        print(
            json.dumps(
                {
                    "capacity_per_s": round(capacity, 1),
                    "deadline_s": arguments.deadline,
                    "loads": rows[:-1],
                    "mixed": mixed,
                    "machine": machine,
                }
            )
        )


if __name__ == "__main__":
    main()
