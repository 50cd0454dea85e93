"""Streaming: a run on more Parquet than fits in memory, from `shoal train` to the published bundle, and what it takes.

Files of random float32 columns are written, surveyed and trained on for one epoch, on a cluster that is up for this run
alone. Once a second the memory of all its processes is added up, shared pages counted once (PSS), the driver's too, and
set against what the same cluster takes before the run begins.

    python tests/benchmarks/streaming.py [--gb 20] [--folder /tmp] [--workers 2] [--json]
"""
# Shapes: N rows of a row group, F features.

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import torch
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local import processes
from cluster.local.record import cluster_id, temp_dir
from cluster.settings import Settings
from training.registry.model_registry import Registry

FEATURES = 255
GROUP_ROWS, GROUPS_OF_A_FILE = 2**16, 8
ROW_BYTES = 4 * (FEATURES + 1)
BATCH_ROWS = 4096
IDLE_S = 10
# Through these the rows go; the rest of a run's processes, a dozen of Ray's, see none.
HOLD_ROWS = ("RayTrainWorker", "MapBatches", "SplitCoordinator", "shoal train")

RECIPE = """
from training.zoo.nets.mlp import mlp
from training.recipe import Files, Net, Optimiser, Recipe, Stop

recipe = Recipe(
    name="streamed",
    task="tabular-regression",
    data=Files(path={path!r}, format="parquet", target="y", test_fraction=0.05, validation_fraction=0.05,
               sample_rows=20_000, license="none needed: random numbers"),
    net=Net(source=mlp, args={{"hidden_sizes": [64]}}),
    optimizer=Optimizer(lr=0.002),
    stop=Stop(epochs=1),
    batch_size={batch_rows},
)
"""


@dataclass
class Memory:
    """Proportional set sizes of a cluster's processes and their driver, in MB, once a second.

    Attributes:
        settings: of the cluster.
        driver: the process that runs the command, once there is one.
        peak: the highest sum so far.
        at_peak: which processes it was made of.
        peaks: the highest sum in each phase.
        phase: what the run is doing.
    """

    settings: Settings
    driver: psutil.Process | None = None
    peak: float = 0.0
    at_peak: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    phase: str = "idle"
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until it is done."""
        mark, folder = cluster_id(self.settings.home), temp_dir(self.settings.home)
        while not self.done.wait(1.0):
            sizes: dict[str, float] = defaultdict(float)
            counts: Counter[str] = Counter()
            for process in {*([self.driver] if self.driver else []), *processes.find_owned(mark, folder)}:
                try:
                    name = _said(process)
                    sizes[name] += process.memory_full_info().pss / 1e6
                    counts[name] += 1
                except psutil.Error:
                    continue
            total = sum(sizes.values())
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0.0), total)
            if total > self.peak:
                self.peak = total
                self.at_peak = {f"{counts[name]} x {name}": size for name, size in sizes.items()}


def main() -> None:
    """Write, train, measure; print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=20.0, help="size of the files, in 10^9 bytes")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where they are written; removed afterwards")
    parser.add_argument("--workers", type=int, default=2, help="data-parallel workers")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    if shutil.disk_usage(arguments.folder).free < 1.2e9 * arguments.gb:
        sys.exit(f"error: {arguments.folder} has no room for {arguments.gb:g} GB; lower --gb or name another --folder")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-stream-", dir=arguments.folder) as name:
        folder = Path(name)
        with console.status("writing files"):
            start = time.monotonic()
            rows = write(folder / "rows", arguments.gb)
            wrote_s = time.monotonic() - start
        found = measure(folder, arguments.workers, console) | {"rows": rows, "write_s": round(wrote_s, 1)}
    report(found, arguments)


def write(folder: Path, gb: float) -> int:
    """Write about so many GB, no row twice; returns the number of rows."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    base_FN = rng.random((FEATURES, GROUP_ROWS), dtype=np.float32)
    target_N = (base_FN[0] + base_FN[1] * base_FN[2]).astype(np.float32)
    names = [f"x{i}" for i in range(FEATURES)] + ["y"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    groups = max(2, round(gb * 1e9 / (GROUP_ROWS * ROW_BYTES)))
    for file in range(0, groups, GROUPS_OF_A_FILE):
        path = folder / f"rows-{file // GROUPS_OF_A_FILE:05}.parquet"
        with parquet.ParquetWriter(
            path, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as to:
            for group in range(file, min(file + GROUPS_OF_A_FILE, groups)):
                # Drawing all numbers anew would take longer than reading them; a column of its own makes rows unique.
                own_N = rng.random(GROUP_ROWS, dtype=np.float32)
                columns = [pa.array(own_N), *map(pa.array, np.roll(base_FN[1:], group, axis=1))]
                moved_N = np.roll(target_N - base_FN[0], group)
                to.write_table(
                    pa.table([*columns, pa.array(own_N + moved_N)], schema=schema), row_group_size=GROUP_ROWS
                )
    return groups * GROUP_ROWS


def measure(folder: Path, workers: int, console: Console) -> dict[str, object]:
    """Run `shoal train` on the files."""
    (folder / "streamed_recipe.py").write_text(RECIPE.format(path=str(folder / "rows"), batch_rows=BATCH_ROWS))
    home = folder / "home"
    settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0)
    environment = os.environ | {
        "SHOAL_HOME": str(home),
        "SHOAL_HTTP_PORT": "0",
        "SHOAL_GRPC_PORT": "0",
        "SHOAL_DASHBOARD_PORT": "0",
    }
    shoal = str(Path(sys.executable).parent / "shoal")
    command = [shoal, "train", str(folder / "streamed_recipe.py"), "--workers", str(workers)]
    memory = Memory(settings)
    watching = threading.Thread(target=memory.watch)
    try:
        subprocess.run([shoal, "up"], env=environment, stdout=subprocess.DEVNULL, check=True)
        watching.start()
        time.sleep(IDLE_S)
        start = time.monotonic()
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        memory.driver, memory.phase = psutil.Process(run.pid), "survey"
        assert run.stdout is not None
        at_s = {"begun": start}
        for line in run.stdout:
            console.print(line.rstrip(), highlight=False, markup=False)
            if "all checked" in line:
                at_s["surveyed"], memory.phase = time.monotonic(), "training"
        if run.wait():
            sys.exit(f"error: shoal train ended with {run.returncode}")
    finally:
        memory.done.set()
        if watching.ident:
            watching.join()
        processes.stop_owned(cluster_id(home), temp_dir(home))
    registry = Registry(settings)
    manifest = registry.load_manifest(registry.resolve("streamed"))
    assert manifest.dataset is not None
    seconds = float(str(manifest.training["seconds"]))
    return {
        "gb": round(sum(path.stat().st_size for path in (folder / "rows").iterdir()) / 1e9, 2),
        "survey_s": round(at_s["surveyed"] - start, 1),
        "epoch_s": seconds,
        "train_rows_per_s": round(manifest.dataset.rows["train"] / seconds),
        "peak_mb": round(memory.peak),
        "peak_of_those_that_hold_rows_mb": round(
            sum(size for name, size in memory.at_peak.items() if name.endswith(HOLD_ROWS))
        ),
        "peak_over_idle_mb": round(memory.peak - memory.peaks["idle"]),
        "peaks_mb": {phase: round(peak) for phase, peak in memory.peaks.items()},
        "at_peak_mb": {
            name: round(size) for name, size in sorted(memory.at_peak.items(), key=lambda item: -item[1])[:12]
        },
        "r2": round(manifest.metrics["test_r2"], 4),
    }


def report(found: dict[str, object], arguments: argparse.Namespace) -> None:
    """Print what was found."""
    table = Table(box=None, show_header=False)
    for name, value in found.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    Console().print(table)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps(found | {"workers": arguments.workers, "machine": machine}))


def _said(process: psutil.Process) -> str:
    """A process in a word or two."""
    line = process.cmdline() or [process.name()]
    if line[0].startswith("ray::"):
        return line[0].split("(")[0].strip()
    words = [Path(word).name for word in line if not word.startswith("-")]
    return " ".join(words[:3])[:40]


if __name__ == "__main__":
    main()
