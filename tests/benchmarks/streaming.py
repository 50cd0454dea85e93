"""Streaming: time and memory of a training run on more Parquet than fits in memory, from `shoal train` to the bundle.

Files of random float32 columns are written, scanned and trained on for one epoch, on a cluster started for this run.
Once a second the memory of all processes of the cluster and of the driver is summed, with shared pages counted once
(PSS), and compared with the idle cluster's.

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

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local import processes
from cluster.local.running_cluster import cluster_id, temp_dir
from cluster.settings import Settings
from training.registry.model_registry import Registry

FEATURES = 255
GROUP_ROWS, GROUPS_PER_FILE = 2**16, 8
ROW_BYTES = 4 * (FEATURES + 1)
BATCH_ROWS = 4096
IDLE_S = 10
# The processes that rows pass through; the others, a dozen of Ray's, hold none.
ROW_PROCESSES = ("RayTrainWorker", "MapBatches", "SplitCoordinator", "shoal train")

RECIPE = """
from training import Files, Net, Optimizer, Recipe, StopRule
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="streamed",
    task="tabular-regression",
    data=Files(path={path!r}, format="parquet", target="y", test_fraction=0.05, validation_fraction=0.05,
               sample_rows=20_000, license="none needed: random numbers"),
    net=Net(source=mlp, args={{"hidden_sizes": [64]}}),
    optimizer=Optimizer(lr=0.002),
    stop=StopRule(epochs=1),
    batch_size={batch_rows},
)
"""


@dataclass
class MemoryMonitor:
    """Samples the proportional set sizes of a cluster's processes and of the driver, in MB, once a second.

    Attributes:
        settings: of the cluster.
        driver: the process of `shoal train`, once it has started.
        peak: the highest sum so far.
        at_peak: the processes at that time.
        peaks: the highest sum of each phase.
        phase: of the run.
        stop: ends the sampling.
    """

    settings: Settings
    driver: psutil.Process | None = None
    peak: float = 0.0
    at_peak: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    phase: str = "idle"
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Sample until `stop` is set."""
        owner, folder = cluster_id(self.settings.home), temp_dir(self.settings.home)
        while not self.stop.wait(1.0):
            sizes: dict[str, float] = defaultdict(float)
            counts: Counter[str] = Counter()
            for process in {*([self.driver] if self.driver else []), *processes.find_owned(owner, folder)}:
                try:
                    name = _describe_process(process)
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
    parser.add_argument(
        "--folder", default=tempfile.gettempdir(), help="where the files are written; they are deleted afterwards"
    )
    parser.add_argument("--workers", type=int, default=2, help="data-parallel workers")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    if shutil.disk_usage(arguments.folder).free < 1.2e9 * arguments.gb:
        sys.exit(f"error: {arguments.folder} has no space for {arguments.gb:g} GB; lower --gb or set another --folder")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-stream-", dir=arguments.folder) as name:
        folder = Path(name)
        with console.status("writing files"):
            start = time.monotonic()
            rows = write_files(folder / "rows", arguments.gb)
            write_s = time.monotonic() - start
        results = measure(folder, arguments.workers, console) | {"rows": rows, "write_s": round(write_s, 1)}
    report(results, arguments)


def write_files(folder: Path, gb: float) -> int:
    """Write about so many GB of unique rows; returns the number of rows."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    base_FN = rng.random((FEATURES, GROUP_ROWS), dtype=np.float32)
    target_N = (base_FN[0] + base_FN[1] * base_FN[2]).astype(np.float32)
    names = [f"x{i}" for i in range(FEATURES)] + ["y"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    groups = max(2, round(gb * 1e9 / (GROUP_ROWS * ROW_BYTES)))
    for file in range(0, groups, GROUPS_PER_FILE):
        path = folder / f"rows-{file // GROUPS_PER_FILE:05}.parquet"
        with parquet.ParquetWriter(
            path, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer:
            for group in range(file, min(file + GROUPS_PER_FILE, groups)):
                # Drawing all numbers anew would take longer than reading them; a random first column makes rows unique.
                first_N = rng.random(GROUP_ROWS, dtype=np.float32)
                columns = [pa.array(first_N), *map(pa.array, np.roll(base_FN[1:], group, axis=1))]
                rest_N = np.roll(target_N - base_FN[0], group)
                writer.write_table(
                    pa.table([*columns, pa.array(first_N + rest_N)], schema=schema), row_group_size=GROUP_ROWS
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
    memory = MemoryMonitor(settings)
    sampling = threading.Thread(target=memory.run)
    try:
        subprocess.run([shoal, "up"], env=environment, stdout=subprocess.DEVNULL, check=True)
        sampling.start()
        time.sleep(IDLE_S)
        start = time.monotonic()
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        memory.driver, memory.phase = psutil.Process(run.pid), "scan"
        assert run.stdout is not None
        scanned_s = None
        for line in run.stdout:
            console.print(line.rstrip(), highlight=False, markup=False)
            if "rows scanned, all valid" in line:
                scanned_s, memory.phase = time.monotonic() - start, "training"
        if run.wait():
            sys.exit(f"error: shoal train ended with exit code {run.returncode}")
        assert scanned_s is not None
    finally:
        memory.stop.set()
        if sampling.ident:
            sampling.join()
        processes.stop_owned(cluster_id(home), temp_dir(home))
    registry = Registry(settings)
    manifest = registry.load_manifest(registry.resolve("streamed"))
    assert manifest.dataset is not None
    seconds = float(str(manifest.training["seconds"]))
    return {
        "gb": round(sum(path.stat().st_size for path in (folder / "rows").iterdir()) / 1e9, 2),
        "scan_s": round(scanned_s, 1),
        "epoch_s": seconds,
        "train_rows_per_s": round(manifest.dataset.rows["train"] / seconds),
        "peak_mb": round(memory.peak),
        "peak_of_row_processes_mb": round(
            sum(size for name, size in memory.at_peak.items() if name.endswith(ROW_PROCESSES))
        ),
        "peak_over_idle_mb": round(memory.peak - memory.peaks["idle"]),
        "peaks_mb": {phase: round(peak) for phase, peak in memory.peaks.items()},
        "at_peak_mb": {
            name: round(size) for name, size in sorted(memory.at_peak.items(), key=lambda item: -item[1])[:12]
        },
        "r2": round(manifest.metrics["test_r2"], 4),
    }


def report(results: dict[str, object], arguments: argparse.Namespace) -> None:
    """Print the results as a table and, with --json, as JSON."""
    table = Table(box=None, show_header=False)
    for name, value in results.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    Console().print(table)
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps(results | {"workers": arguments.workers, "machine": machine}))


def _describe_process(process: psutil.Process) -> str:
    """Return a short name of a process: its Ray title, or the first words of its command."""
    line = process.cmdline() or [process.name()]
    if line[0].startswith("ray::"):
        return line[0].split("(")[0].strip()
    words = [Path(word).name for word in line if not word.startswith("-")]
    return " ".join(words[:3])[:40]


if __name__ == "__main__":
    main()
