"""Precision: what bf16 and compiling bring on this machine, for three nets in a bare torch loop, no server around it.

Each net is saved as a bundle and brought into each form as a replica does it (deployments/variants.py); its weights
are random, so that only speed and the distance from fp32 mean anything. The forms take turns at each batch size, and
what is told is the fastest of the rounds, which is the least disturbed.

    python tests/benchmarks/variants.py [--seconds 1] [--rounds 3] [--threads N] [--nets cnn] [--json]
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

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from deployments.models import variants
from deployments.settings import Limits
from deployments.specs.model import Dtype, ModelEndpoint
from tests.benchmarks import nets
from training.bundle.load import load_bundle
from training.errors import UserError

BATCHES = (1, 8, 32)
FORMS: tuple[tuple[Dtype, bool], ...] = (("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True))
LIMITS = Limits(max_batch_rows=max(BATCHES))


@dataclass
class Form:
    """One net in one form, and what was measured of it.

    Attributes:
        net: ready to run; None where the form was refused.
        why: the refusal.
        load_s: from the bundle's net to the form.
        distance: from fp32, as a share of the largest output.
        rows_per_s: by batch size, the fastest round.
    """

    net: Callable[[Tensor], Tensor] | None = None
    why: str = ""
    load_s: float = 0.0
    distance: float = 0.0
    rows_per_s: dict[int, float] = field(default_factory=dict)


def form(folder: Path, x: Tensor, dtype: Dtype, compile_: bool) -> Form:
    """Bring a bundle's net into one form, as a replica does."""
    loaded = load_bundle(folder)
    endpoint = ModelEndpoint(
        name=loaded.manifest.name,
        version=1,
        digest=loaded.manifest.digest,
        uri=str(folder),
        limits=LIMITS,
        dtype=dtype,
        compile=compile_,
    )
    # As batching.py has it: the codec has checked the shape already.
    loaded.net._forward_pre_hooks.clear()
    start = time.perf_counter()
    try:
        net = variants.build_variant(
            loaded.net, endpoint, loaded.manifest, x[:1].numpy(), "cpu", folder.parent / "cache"
        )
    except UserError as error:
        return Form(why=str(error))
    made = Form(net=net, load_s=time.perf_counter() - start)
    with torch.inference_mode():
        made.distance = variants.max_relative_difference((net(x),), (load_bundle(folder).net(x),))
    return made


def rows_per_s(net: Callable[[Tensor], Tensor], x_B: Tensor, seconds: float) -> float:
    """Run batches for so long, after two that do not count."""
    with torch.inference_mode():
        for _ in range(2):
            net(x_B)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            net(x_B)
            count += 1
    return count * len(x_B) / (time.perf_counter() - start)


def measure(name: str, folder: Path, arguments: argparse.Namespace, console: Console) -> dict[str, Form]:
    """All forms of one net."""
    x = nets.save_benchmark_bundle(name, folder)
    found: dict[str, Form] = {}
    for dtype, compile_ in FORMS:
        said = f"{dtype}, compiled" if compile_ else dtype
        with console.status(f"{name}: {said}"):
            found[said] = form(folder, x, dtype, compile_)
    for rows in BATCHES:
        x_B = x[:1].expand(rows, *x.shape[1:]).contiguous()
        for _ in range(arguments.rounds):
            for said, made in found.items():
                if made.net is not None:
                    with console.status(f"{name}: {said}, {rows} rows"):
                        measured = rows_per_s(made.net, x_B, arguments.seconds / arguments.rounds)
                    made.rows_per_s[rows] = max(measured, made.rows_per_s.get(rows, 0.0))
    return found


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="time of each net, form and batch size, all rounds")
    parser.add_argument("--rounds", type=int, default=3, help="how often the forms take turns")
    parser.add_argument("--threads", type=int, default=1, help="of torch; a replica has as many as its CPUs")
    parser.add_argument("--nets", nargs="+", choices=nets.NET_NAMES, default=nets.NET_NAMES)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        found = {name: measure(name, Path(folder) / name, arguments, console) for name in arguments.nets}
    report(found, arguments)


def report(found: dict[str, dict[str, Form]], arguments: argparse.Namespace) -> None:
    """Print rows per second with the ratio over fp32, and, if asked, all as JSON."""
    shown = Table("net", "form", *(f"rows/s at {rows}" for rows in BATCHES), "from fp32", "load", box=None)
    told: dict[str, dict[str, object]] = {}
    for name, forms in found.items():
        plain = forms["fp32"].rows_per_s
        told[name] = {}
        for said, made in forms.items():
            ratios = {rows: speed / plain[rows] for rows, speed in made.rows_per_s.items()}
            told[name][said] = {
                "rows_per_s": {rows: round(speed, 1) for rows, speed in made.rows_per_s.items()},
                "over_fp32": {rows: round(ratio, 3) for rows, ratio in ratios.items()},
                "distance": made.distance,
                "load_s": round(made.load_s, 1),
                "refused": made.why or None,
            }
            cells = [f"{made.rows_per_s[rows]:,.0f}  {ratios[rows]:.2f}x" if ratios else "refused" for rows in BATCHES]
            shown.add_row(name, said, *cells, f"{made.distance:.2g}", f"{made.load_s:.1f} s")
    Console().print(shown)
    if arguments.json:
        capability = torch.backends.cpu.get_cpu_capability()
        machine = {"cpus": os.cpu_count(), "capability": capability, "threads": arguments.threads}
        machine |= {"python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({"nets": told, "seconds": arguments.seconds, "machine": machine}))


if __name__ == "__main__":
    main()
