"""Training: Shoal's loop on Ray Train compared with the same loop written for torchrun; two workers, gloo.

Both run as commands: the training of `shoal train` on a running cluster, and `torchrun --nproc-per-node 2`. Each
trains the same net on the same batches, with one thread and the same niceness per worker. They alternate in rounds,
and the result is the median. The speed is that of the training steps after the first epoch, without validation; the
startup time is from the command to the end of the first step.

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

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local.running_cluster import exclusive_lock
from cluster.local.start import start_cluster, stop_cluster
from cluster.settings import Settings

WORKERS = 2
PEERS = Path(__file__).parent / "other_frameworks"
# A recipe and its overrides: two nets whose time goes into their layers, and one of 5.8 million weights, whose time
# goes into the all-reduce of gradients.
NETS: dict[str, tuple[str, ...]] = {
    "digits-cnn": ("digits-cnn",),
    "digits-resnet": ("digits-resnet",),
    "wide-mlp": ("digits-mlp", "net.args.hidden_sizes=[2048,2048]", "batch_size=128"),
}
STACKS = ("shoal", "torchrun")
# Only the time ends a run; the warm-up of the learning rate never ends, so the rate stays low enough for any net.
NO_EPOCH_LIMIT = ("stop.epochs=1000000", f"workers={WORKERS}")
TIMEOUT_S = 600

Measurement = dict[str, float]


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="training time of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each stack")
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=["digits-cnn", "wide-mlp"])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()

    console = Console(stderr=True)
    measurements: dict[str, dict[str, list[Measurement]]] = {
        net: {stack: [] for stack in STACKS} for net in arguments.nets
    }
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, run_cluster(Path(folder)) as environment:
        for net in arguments.nets:
            for number in range(arguments.rounds):
                # The order alternates, so that neither always runs second.
                for stack in STACKS if number % 2 == 0 else reversed(STACKS):
                    with console.status(f"{net}, round {number + 1} of {arguments.rounds}: {stack}"):
                        measurements[net][stack].append(measure(stack, net, arguments.seconds, environment))
    report(measurements, arguments)


@contextlib.contextmanager
def run_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Shoal cluster with its own SHOAL_HOME; yields the environment of a command that uses it."""
    variables = {
        "SHOAL_HOME": str(folder / "home"),
        "SHOAL_HTTP_PORT": "0",
        "SHOAL_GRPC_PORT": "0",
        "SHOAL_DASHBOARD_PORT": "0",
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SHOAL_", "RAY_"))} | variables
    settings = Settings(home=folder / "home", http_port=0, grpc_port=0, dashboard_port=0)
    try:
        # As `shoal train` starts one where none runs, without serving.
        with exclusive_lock(settings):
            start_cluster(settings)
        yield environment
    finally:
        stop_cluster(settings)


def measure(stack: str, net: str, seconds: float, environment: dict[str, str]) -> Measurement:
    """Measure one stack once."""
    recipe, *overrides = NETS[net]
    arguments = [recipe, f"{seconds:g}", *overrides, *NO_EPOCH_LIMIT]
    if stack == "shoal":
        command = [sys.executable, str(PEERS / "shoal_run.py"), *arguments]
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
        # The default of torchrun, and of Ray for a worker of one CPU.
        environment = environment | {"OMP_NUM_THREADS": "1"}
        command = [*torchrun, str(PEERS / "torchrun_peer.py"), *arguments]
    start = time.time()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S + seconds)
    if result.returncode:
        sys.exit(f"{stack} on {net} ended with exit code {result.returncode}: {result.stderr[-2000:]}")
    messages = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return summarize(messages, start)


def summarize(messages: list[dict[str, Any]], start: float) -> Measurement:
    """Compute speed, startup time and time between epochs from the messages of a run."""
    first_step = next(message for message in messages if message["kind"] == "first step")
    steps = [message for message in messages if message["kind"] == "steps"]
    after_warmup = [message for message in steps if message["epoch"] > 0]
    if not after_warmup:
        sys.exit("no epoch was completed in this time; raise --seconds")
    warmup = [message for message in steps if message["epoch"] == 0][-1]
    rows, seconds = (sum(message[key] for message in after_warmup) for key in ("rows", "seconds"))
    between_epochs_s = after_warmup[-1]["at_s"] - warmup["at_s"] - seconds
    return {
        "samples_per_s": rows / seconds,
        "start_s": first_step["at_s"] - start,
        "between_epochs_s": between_epochs_s / after_warmup[-1]["epoch"],
    }


def report(measurements: dict[str, dict[str, list[Measurement]]], arguments: argparse.Namespace) -> None:
    """Print medians as a table and, with --json, as JSON."""
    table = Table("net", "stack", "samples/s", "startup", "between epochs", "Shoal/torchrun", box=None)
    nets = {}
    for net, stacks in measurements.items():
        medians = {s: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for s, runs in stacks.items()}
        # Of adjacent measurements, since the machine's speed varies.
        pairs = zip(*(stacks[stack] for stack in STACKS), strict=True)
        ratio = statistics.median(shoal["samples_per_s"] / torchrun["samples_per_s"] for shoal, torchrun in pairs)
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
