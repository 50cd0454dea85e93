"""Precision: the speed of bf16 and compiled variants of three nets, in a bare torch loop without a server.

Each net is saved as a bundle, and each variant is built as a replica builds it (deployments/models/variants.py). The
weights are random, so only the speed and the difference from fp32 are meaningful. The variants alternate at each batch
size, and the result is the fastest of the rounds, the one that other processes disturbed least.

    python tests/benchmarks/precision.py [--seconds 1] [--rounds 3] [--threads N] [--nets cnn] [--json]
"""
# Shapes: B rows of a batch.

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from deployments.models import variants
from deployments.settings import Limits
from deployments.specs.model_deployment import Dtype, ModelEndpoint
from tests.benchmarks import nets
from training.bundle.load import load_bundle
from training.errors import UserError

BATCHES = (1, 8, 32)
VARIANTS: tuple[tuple[Dtype, bool], ...] = (("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True))
LIMITS = Limits(max_batch_rows=max(BATCHES))


@dataclass
class Measurement:
    """One variant of a net and its measurements.

    Attributes:
        net: ready to run; None if the variant was refused.
        refusal: the reason.
        build_s: time to build the variant from the bundle's net.
        max_relative_difference: from fp32, relative to the largest output.
        rows_per_s: of the fastest round, by batch size.
    """

    net: Callable[[Tensor], Tensor] | None = None
    refusal: str = ""
    build_s: float = 0.0
    max_relative_difference: float = 0.0
    rows_per_s: dict[int, float] = field(default_factory=dict)


def build_variant(folder: Path, x: Tensor, dtype: Dtype, compile_: bool) -> Measurement:
    """Build one variant of a bundle's net, as a replica does."""
    bundle = load_bundle(folder)
    endpoint = ModelEndpoint(
        name=bundle.manifest.name,
        version=1,
        digest=bundle.manifest.digest,
        uri=str(folder),
        limits=LIMITS,
        dtype=dtype,
        compile=compile_,
    )
    # As in a replica, whose codec has checked the shape.
    bundle.net._forward_pre_hooks.clear()
    start = time.perf_counter()
    try:
        net = variants.build_variant(
            bundle.net, endpoint, bundle.manifest, x[:1].numpy(), "cpu", folder.parent / "cache"
        )
    except UserError as error:
        return Measurement(refusal=str(error))
    measurement = Measurement(net=net, build_s=time.perf_counter() - start)
    with torch.inference_mode():
        measurement.max_relative_difference = variants.max_relative_difference((net(x),), (load_bundle(folder).net(x),))
    return measurement


def measure_rows_per_s(net: Callable[[Tensor], Tensor], x_B: Tensor, seconds: float) -> float:
    """Run batches for this time, after two of warm-up; returns rows per second."""
    with torch.inference_mode():
        for _ in range(2):
            net(x_B)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            net(x_B)
            count += 1
    return count * len(x_B) / (time.perf_counter() - start)


def measure(name: str, folder: Path, arguments: argparse.Namespace, console: Console) -> dict[str, Measurement]:
    """Measure all variants of one net."""
    x = nets.save_benchmark_bundle(name, folder)
    results: dict[str, Measurement] = {}
    for dtype, compile_ in VARIANTS:
        variant = f"{dtype}, compiled" if compile_ else dtype
        with console.status(f"{name}: {variant}"):
            results[variant] = build_variant(folder, x, dtype, compile_)
    for rows in BATCHES:
        x_B = x[:1].expand(rows, *x.shape[1:]).contiguous()
        for _ in range(arguments.rounds):
            for variant, measurement in results.items():
                if measurement.net is not None:
                    with console.status(f"{name}: {variant}, {rows} rows"):
                        speed = measure_rows_per_s(measurement.net, x_B, arguments.seconds / arguments.rounds)
                    measurement.rows_per_s[rows] = max(speed, measurement.rows_per_s.get(rows, 0.0))
    return results


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time of each net, variant and batch size over all rounds"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the variants alternate")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; a replica has as many as CPUs")
    parser.add_argument("--nets", nargs="+", choices=nets.NET_NAMES, default=nets.NET_NAMES)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        results = {name: measure(name, Path(folder) / name, arguments, console) for name in arguments.nets}
    report(results, arguments)


def report(results: dict[str, dict[str, Measurement]], arguments: argparse.Namespace) -> None:
    """Print rows per second with the ratio over fp32 and, with --json, all as JSON."""
    table = Table(
        "net", "variant", *(f"rows/s at {rows}" for rows in BATCHES), "difference from fp32", "build time", box=None
    )
    summary: dict[str, dict[str, object]] = {}
    for name, measurements in results.items():
        fp32_speeds = measurements["fp32"].rows_per_s
        summary[name] = {}
        for variant, measurement in measurements.items():
            ratios = {rows: speed / fp32_speeds[rows] for rows, speed in measurement.rows_per_s.items()}
            summary[name][variant] = {
                "rows_per_s": {rows: round(speed, 1) for rows, speed in measurement.rows_per_s.items()},
                "over_fp32": {rows: round(ratio, 3) for rows, ratio in ratios.items()},
                "max_relative_difference": measurement.max_relative_difference,
                "build_s": round(measurement.build_s, 1),
                "refusal": measurement.refusal or None,
            }
            cells = [
                f"{measurement.rows_per_s[rows]:,.0f}  {ratios[rows]:.2f}x" if ratios else "refused" for rows in BATCHES
            ]
            table.add_row(
                name, variant, *cells, f"{measurement.max_relative_difference:.2g}", f"{measurement.build_s:.1f} s"
            )
    Console().print(table)
    if arguments.json:
        capability = torch.backends.cpu.get_cpu_capability()
        machine = {"cpus": os.cpu_count(), "capability": capability, "threads": arguments.threads}
        machine |= {"python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({"nets": summary, "seconds": arguments.seconds, "machine": machine}))


if __name__ == "__main__":
    main()
