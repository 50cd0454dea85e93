"""Pipelines: what a step costs. One model asked directly, and the same through a sequence of one step and of two.

The same rows, the same client, one cluster; client and server share this machine's cores, so the ratios count. The
second step is a model of the first one's scores, so that its cost is that of a hop with little work behind it.

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

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks import stand
from tests.benchmarks.peers.mlp import CLASSES
from tests.benchmarks.serving import ROW, save_mlp
from tests.benchmarks.stand import Stand
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, TableInput

CONNECTIONS = (1, 16)
LABELS = tuple(str(number) for number in range(CLASSES))
PIPELINES = {
    "one-step": {"kind": "sequence", "nodes": ["mlp"]},
    "two-steps": {"kind": "sequence", "nodes": ["mlp", {"model": "judge", "input_from": "scores"}]},
}
STACKS = {"mlp": "the model itself", "one-step": "sequence of one step", "two-steps": "sequence of two steps"}
Found = dict[str, dict[int, list[dict[str, float]]]]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each stack is measured")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    stand.require()
    console = Console(stderr=True)
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, Stand(Path(folder)) as cluster:
        scripts = served(cluster)
        for number in range(arguments.rounds):
            for name, file in scripts.items():
                with console.status(f"round {number + 1} of {arguments.rounds}: {STACKS[name]}"):
                    stand.wrk(file, 16, 2)
                    for connections in CONNECTIONS:
                        measured = stand.wrk(file, connections, arguments.seconds)
                        found.setdefault(name, {}).setdefault(connections, []).append(measured)
    report(found, arguments)


def report(found: Found, arguments: argparse.Namespace) -> None:
    """Print medians as a table and, if asked, all as JSON."""
    medians = {
        name: {
            c: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for c, runs in by_connections.items()
        }
        for name, by_connections in found.items()
    }
    hop_ms = {
        "first": medians["one-step"][1]["p50_ms"] - medians["mlp"][1]["p50_ms"],
        "next": medians["two-steps"][1]["p50_ms"] - medians["one-step"][1]["p50_ms"],
    }
    table = Table("asked", *(f"c={c} req/s" for c in CONNECTIONS), *(f"p50 c={c}" for c in CONNECTIONS), box=None)
    for name, by_connections in medians.items():
        table.add_row(
            STACKS[name],
            *(f"{by_connections[c]['requests_per_s']:,.0f}" for c in CONNECTIONS),
            *(f"{by_connections[c]['p50_ms']:.2f} ms" for c in CONNECTIONS),
        )
    Console().print(table)
    Console().print(
        f"a hop at one connection: {hop_ms['first']:.2f} ms for the first, {hop_ms['next']:.2f} ms after it"
    )
    if arguments.json:
        print(json.dumps({"hop_ms": hop_ms, "stacks": medians, "rounds": arguments.rounds, "cpus": os.cpu_count()}))


def served(cluster: Stand) -> dict[str, Path]:
    """Serve two models and two pipelines of them; returns wrk's scripts."""
    folder = cluster.folder
    save_mlp(folder / "mlp")
    save_judge(folder / "judge")
    for name in ("mlp", "judge"):
        cluster.serve(folder / name, name)
    for name, root in PIPELINES.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, "root": root}))
        cluster.run("apply", str(folder / f"{name}.yaml"))
    body, kind = json.dumps({"inputs": [ROW]}).encode(), {"Content-Type": "application/json"}
    return {name: cluster.script(f"{name}/predict", body, kind) for name in STACKS}


def save_judge(folder: Path) -> None:
    """A small model of another model's scores."""
    about = ModelInfo(
        name="judge",
        task="tabular-classification",
        input_schema=TableInput(features=LABELS),
        output_schema=ClassOutput(labels=LABELS),
    )
    save_bundle(folder, nn.Linear(CLASSES, CLASSES), inputs=torch.rand(2, CLASSES), info=about)


if __name__ == "__main__":
    main()
