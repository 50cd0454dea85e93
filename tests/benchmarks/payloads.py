"""Payloads: the same tensor as JSON and as bytes (the protocol's binary extension), small and as large as a picture.

One cluster, one client, hardly any net behind it: what is measured is reading and writing.

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

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks import stand
from tests.benchmarks.stand import Stand
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, ImageInput, TableInput

SHAPES = {"row": (64,), "picture": (3, 224, 224)}
CONNECTIONS = {"row": 64, "picture": 4}


class Mean(nn.Module):
    """Two numbers from any tensor: its mean, and its negative."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).float().mean(1, keepdim=True)
        return torch.cat([mean, -mean], 1)


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=9, help="how often each form is measured")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    stand.require()
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, Stand(Path(folder)) as cluster:
        for name, shape in SHAPES.items():
            save(Path(folder) / name, name, shape)
            cluster.serve(Path(folder) / name, name, "--cpus", "1")
        for _ in range(arguments.rounds):
            for name, shape in SHAPES.items():
                for form in ("json", "binary"):
                    body, headers = stand.request(rows(shape, 1), form == "binary")
                    script = cluster.script(f"{name}/infer", body, headers)
                    stand.wrk(script, CONNECTIONS[name], 1)
                    measured = stand.wrk(script, CONNECTIONS[name], arguments.seconds)
                    rates.setdefault((name, form), []).append(measured["requests_per_s"])
    table = Table("tensor", "connections", "JSON req/s", "binary req/s", "binary is", box=None)
    told = {}
    for name, shape in SHAPES.items():
        as_json, as_bytes = (statistics.median(rates[name, form]) for form in ("json", "binary"))
        # Of neighbours in time: the machine is not the same all the while.
        pairs = zip(rates[name, "binary"], rates[name, "json"], strict=True)
        ratio = round(statistics.median(binary / json_ for binary, json_ in pairs), 2)
        shown = "x".join(map(str, shape))
        table.add_row(shown, str(CONNECTIONS[name]), f"{as_json:,.0f}", f"{as_bytes:,.0f}", f"{ratio:.2f}x")
        told[name] = {"shape": shape, "json_per_s": as_json, "binary_per_s": as_bytes, "ratio": ratio}
    Console().print(table)
    if arguments.json:
        print(json.dumps(told))


def save(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    """A net that takes tensors of this shape; its words hardly matter, it is asked in tensors."""
    picture = len(shape) == 3
    about = ModelInfo(
        name=name,
        task="image-classification" if picture else "tabular-classification",
        input_schema=ImageInput(height=shape[1], width=shape[2])
        if picture
        else TableInput(features=tuple(f"x{n}" for n in range(*shape))),
        output_schema=ClassOutput(labels=("up", "down")),
    )
    save_bundle(folder, Mean(), inputs=torch.from_numpy(rows(shape, 2)), info=about)


def rows(shape: tuple[int, ...], count: int) -> NDArray[Any]:
    """Random rows: a table's are floats, a picture's bytes."""
    random = np.random.default_rng(0)
    if len(shape) == 3:
        return random.integers(0, 256, (count, *shape), np.uint8)
    return random.random((count, *shape), np.float32)


if __name__ == "__main__":
    main()
