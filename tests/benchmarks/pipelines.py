"""Pipelines: the cost of a node. One model called directly, and through a sequence of one node and of two.

All get the same rows from the same client on one cluster; client and server share this machine's cores, so only the
ratios matter. The second node is a small model of the first one's scores, so that its cost is that of the call.

    python tests/benchmarks/pipelines.py [--seconds 8] [--rounds 3] [--json]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks import benchmark_cluster
from tests.benchmarks.benchmark_cluster import BenchmarkCluster
from tests.benchmarks.other_frameworks.mlp import CLASSES
from tests.benchmarks.serving import ROW, save_mlp
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, TableInput

CONNECTIONS = (1, 16)
LABELS = tuple(str(number) for number in range(CLASSES))
PIPELINES = {
    "one-node": {"kind": "sequence", "nodes": ["mlp"]},
    "two-nodes": {"kind": "sequence", "nodes": ["mlp", {"model": "second", "input_from": "scores"}]},
}
STACKS = {"mlp": "the model", "one-node": "sequence of one node", "two-nodes": "sequence of two nodes"}
Measurements = dict[str, dict[int, list[dict[str, float]]]]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each stack")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    benchmark_cluster.require_tools()
    console = Console(stderr=True)
    measurements: Measurements = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, BenchmarkCluster(Path(folder)) as cluster:
        scripts = deploy_all(cluster)
        for number in range(arguments.rounds):
            for name, file in scripts.items():
                with console.status(f"round {number + 1} of {arguments.rounds}: {STACKS[name]}"):
                    benchmark_cluster.run_wrk(file, 16, 2)
                    for connections in CONNECTIONS:
                        measured = benchmark_cluster.run_wrk(file, connections, arguments.seconds)
                        measurements.setdefault(name, {}).setdefault(connections, []).append(measured)
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
    node_ms = {
        "first": medians["one-node"][1]["p50_ms"] - medians["mlp"][1]["p50_ms"],
        "second": medians["two-nodes"][1]["p50_ms"] - medians["one-node"][1]["p50_ms"],
    }
    table = Table("stack", *(f"c={c} req/s" for c in CONNECTIONS), *(f"p50 c={c}" for c in CONNECTIONS), box=None)
    for name, by_connections in medians.items():
        table.add_row(
            STACKS[name],
            *(f"{by_connections[c]['requests_per_s']:,.0f}" for c in CONNECTIONS),
            *(f"{by_connections[c]['p50_ms']:.2f} ms" for c in CONNECTIONS),
        )
    Console().print(table)
    Console().print(
        f"a node at one connection: {node_ms['first']:.2f} ms for the first, {node_ms['second']:.2f} ms for the second"
    )
    if arguments.json:
        print(json.dumps({"node_ms": node_ms, "stacks": medians, "rounds": arguments.rounds, "cpus": os.cpu_count()}))


def deploy_all(cluster: BenchmarkCluster) -> dict[str, Path]:
    """Deploy two models and two pipelines of them; returns the wrk script of each stack."""
    folder = cluster.folder
    save_mlp(folder / "mlp")
    save_second(folder / "second")
    for name in ("mlp", "second"):
        cluster.deploy(folder / name, name)
    for name, root in PIPELINES.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, "root": root}))
        cluster.run("apply", str(folder / f"{name}.yaml"))
    body, headers = json.dumps({"inputs": [ROW]}).encode(), {"Content-Type": "application/json"}
    return {name: cluster.write_script(f"{name}/predict", body, headers) for name in STACKS}


def save_second(folder: Path) -> None:
    """Save a small model whose inputs are another model's scores."""
    info = ModelInfo(
        name="second",
        task="tabular-classification",
        input_schema=TableInput(features=LABELS),
        output_schema=ClassOutput(labels=LABELS),
    )
    save_bundle(folder, nn.Linear(CLASSES, CLASSES), inputs=torch.rand(2, CLASSES), info=info)


if __name__ == "__main__":
    main()
