"""Payloads: the same tensor as JSON and as bytes (the protocol's binary extension), of a table's row and of an image.

The net takes almost no time, so that the throughput is that of decoding and encoding.

    python tests/benchmarks/payloads.py [--seconds 3] [--rounds 9] [--json]
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks import benchmark_cluster
from tests.benchmarks.benchmark_cluster import BenchmarkCluster
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, ImageInput, TableInput

SHAPES = {"row": (64,), "image": (3, 224, 224)}
CONNECTIONS = {"row": 64, "image": 4}


class Mean(nn.Module):
    """The mean of a row and its negative, as two logits."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).float().mean(1, keepdim=True)
        return torch.cat([mean, -mean], 1)


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each encoding")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    benchmark_cluster.require_tools()
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, BenchmarkCluster(Path(folder)) as cluster:
        for name, shape in SHAPES.items():
            save_mean(Path(folder) / name, name, shape)
            cluster.deploy(Path(folder) / name, name, "--cpus", "1")
        for _ in range(arguments.rounds):
            for name, shape in SHAPES.items():
                for encoding in ("json", "binary"):
                    body, headers = benchmark_cluster.encode_request(make_rows(shape, 1), encoding == "binary")
                    script = cluster.write_script(f"{name}/infer", body, headers)
                    benchmark_cluster.run_wrk(script, CONNECTIONS[name], 1)
                    measured = benchmark_cluster.run_wrk(script, CONNECTIONS[name], arguments.seconds)
                    rates.setdefault((name, encoding), []).append(measured["requests_per_s"])
    table = Table("tensor", "connections", "JSON req/s", "binary req/s", "binary/JSON", box=None)
    summary = {}
    for name, shape in SHAPES.items():
        json_rate, binary_rate = (statistics.median(rates[name, encoding]) for encoding in ("json", "binary"))
        # Of adjacent measurements, since the machine's speed varies.
        pairs = zip(rates[name, "binary"], rates[name, "json"], strict=True)
        ratio = round(statistics.median(binary / json_ for binary, json_ in pairs), 2)
        table.add_row(
            "x".join(map(str, shape)),
            str(CONNECTIONS[name]),
            f"{json_rate:,.0f}",
            f"{binary_rate:,.0f}",
            f"{ratio:.2f}x",
        )
        summary[name] = {"shape": shape, "json_per_s": json_rate, "binary_per_s": binary_rate, "ratio": ratio}
    Console().print(table)
    if arguments.json:
        print(json.dumps(summary))


def save_mean(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    """Save a bundle of `Mean` for rows of this shape."""
    is_image = len(shape) == 3
    info = ModelInfo(
        name=name,
        task="image-classification" if is_image else "tabular-classification",
        input_schema=ImageInput(height=shape[1], width=shape[2])
        if is_image
        else TableInput(features=tuple(f"x{n}" for n in range(*shape))),
        output_schema=ClassOutput(labels=("up", "down")),
    )
    save_bundle(folder, Mean(), inputs=torch.from_numpy(make_rows(shape, 2)), info=info)


def make_rows(shape: tuple[int, ...], count: int) -> NDArray[Any]:
    """Draw random rows: float32 of a table, uint8 of an image."""
    random = np.random.default_rng(0)
    if len(shape) == 3:
        return random.integers(0, 256, (count, *shape), np.uint8)
    return random.random((count, *shape), np.float32)


if __name__ == "__main__":
    main()
