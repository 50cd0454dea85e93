"""Training: Shoal's loop on Ray Train beside the same loop written for torchrun; two workers, gloo, one run.

Both are commands: `shoal train`'s walk on a cluster that runs already, and `torchrun --nproc-per-node 2`. Each trains
the same net on the same rows in the same batches, with one thread and the same niceness per worker. They take turns,
in rounds, and what is told is the median. The speed is that of training steps after the first epoch, validation left
out; the start is from the command to the end of the first step.

    python tests/benchmarks/training.py [--seconds 10] [--rounds 3] [--nets digits-cnn wide-mlp] [--json]
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local.record import exclusive_lock
from cluster.local.start import start_cluster, stop_cluster
from cluster.settings import Settings

WORKERS = 2
PEERS = Path(__file__).parent / "peers"
# A recipe and what is changed of it: a net whose work is in its layers, and one of 5.8 million weights, whose work is
# in the exchange of gradients.
NETS: dict[str, tuple[str, ...]] = {
    "digits-cnn": ("digits-cnn",),
    "digits-resnet": ("digits-resnet",),
    "wide-mlp": ("digits-mlp", "net.args.hidden_sizes=[2048,2048]", "batch_size=128"),
}
STACKS = ("shoal", "torchrun")
# No end but the time; and a rate that rises all the while, as slowly as to be harmless to a net of any size.
ENDLESS = ("stop.epochs=1000000", f"workers={WORKERS}")
MOST_S = 600

Measured = dict[str, float]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="training time of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each stack is measured")
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=["digits-cnn", "wide-mlp"])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()

    console = Console(stderr=True)
    found: dict[str, dict[str, list[Measured]]] = {net: {stack: [] for stack in STACKS} for net in arguments.nets}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, cluster(Path(folder)) as environment:
        for net in arguments.nets:
            for number in range(arguments.rounds):
                # Neither always has the machine as the other left it.
                for stack in STACKS if number % 2 == 0 else reversed(STACKS):
                    with console.status(f"{net}, round {number + 1} of {arguments.rounds}: {stack}"):
                        found[net][stack].append(measure(stack, net, arguments.seconds, environment))
    report(found, arguments)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A Shoal cluster of its own; yields the environment of a command that uses it."""
    own = {
        "SHOAL_HOME": str(folder / "home"),
        "SHOAL_HTTP_PORT": "0",
        "SHOAL_GRPC_PORT": "0",
        "SHOAL_DASHBOARD_PORT": "0",
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SHOAL_", "RAY_"))} | own
    settings = Settings(home=folder / "home", http_port=0, grpc_port=0, dashboard_port=0)
    try:
        # As `shoal train` brings it up where none runs: nothing is served beside.
        with exclusive_lock(settings):
            start_cluster(settings)
        yield environment
    finally:
        stop_cluster(settings)


def measure(stack: str, net: str, seconds: float, environment: dict[str, str]) -> Measured:
    """Run one stack once, alone."""
    recipe, *changed = NETS[net]
    words = [recipe, f"{seconds:g}", *changed, *ENDLESS]
    if stack == "shoal":
        command = [sys.executable, str(PEERS / "shoal_run.py"), *words]
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
        # What torchrun sets by itself, and Ray for a worker of one CPU.
        environment = environment | {"OMP_NUM_THREADS": "1"}
        command = [*torchrun, str(PEERS / "torchrun_peer.py"), *words]
    start = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MOST_S + seconds)
    if done.returncode:
        sys.exit(f"{stack} on {net} ended with {done.returncode}: {done.stderr[-2000:]}")
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return figures(told, start)


def figures(told: list[dict[str, Any]], start: float) -> Measured:
    """From what a run told: the steady speed, the start, and what lies between two epochs."""
    first = next(line for line in told if line["kind"] == "first step")
    steps = [line for line in told if line["kind"] == "steps"]
    steady = [line for line in steps if line["epoch"] > 0]
    if not steady:
        sys.exit("not one epoch was done in the time; raise --seconds")
    warm = [line for line in steps if line["epoch"] == 0][-1]
    rows, seconds = (sum(line[key] for line in steady) for key in ("rows", "seconds"))
    gaps = steady[-1]["at_s"] - warm["at_s"] - seconds
    return {
        "samples_per_s": rows / seconds,
        "start_s": first["at_s"] - start,
        "between_epochs_s": gaps / steady[-1]["epoch"],
    }


def report(found: dict[str, dict[str, list[Measured]]], arguments: argparse.Namespace) -> None:
    """Print medians as a table and, if asked, all as JSON."""
    table = Table("net", "stack", "samples/s", "from command to first step", "between epochs", "Shoal is", box=None)
    nets = {}
    for net, stacks in found.items():
        medians = {s: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for s, runs in stacks.items()}
        # Of neighbours in time: the machine is not the same all the while.
        pairs = zip(*(stacks[stack] for stack in STACKS), strict=True)
        ratio = statistics.median(ours["samples_per_s"] / peer["samples_per_s"] for ours, peer in pairs)
        for stack, median in medians.items():
            table.add_row(
                net,
                stack,
                f"{median['samples_per_s']:,.0f}",
                f"{median['start_s']:.1f} s",
                f"{median['between_epochs_s']:.2f} s",
                f"{ratio:.3f}x" if stack == "torchrun" else "",
            )
        nets[net] = {"ratio": round(ratio, 3), "medians": medians, "rounds": stacks}
    Console().print(table)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({"nets": nets, "seconds": arguments.seconds, "workers": WORKERS, "machine": machine}))


if __name__ == "__main__":
    main()
