"""A training run whose steps take their time, so that there is time to kill it; for the tests of failures."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from training.bundle.load import load_bundle
from training.registry.model_registry import Registry

PATIENCE_S = 240.0
STEPS_PER_EPOCH, EPOCHS = 90, 3

RECIPE = '''
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from training import Augmentation, CheckpointPolicy, Data, Dataset, Net, Optimizer, Recipe, StopRule, TableInput


class Rings(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 2)
        )

    def forward(self, x):
        return self.layers(x)


def rings(count: int) -> Dataset:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return Dataset(
        inputs=x,
        targets=(x.norm(dim=1) > 1.2).long(),
        labels=("inner", "outer"),
        input_schema=TableInput(features=("x", "y")),
    )


def slowly(x, targets, generator, folder: str, fail: str = "", fail_at: int = 0):
    """Vary the rows a little; on a worker, take as long as is wanted and note which process is at which step."""
    if dist.is_initialized():
        step = (generator.initial_seed() - 1) // 2 // 1009
        mine = Path(folder) / f"rank-{dist.get_rank()}"
        mine.with_suffix(".new").write_text(f"{os.getpid()} {step}")
        mine.with_suffix(".new").replace(mine)
        with (Path(folder) / "pids").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if fail and step == fail_at and dist.get_rank() == 0:
            if fail == "nan":
                return x * torch.nan, targets
            raise {"ValueError": ValueError, "RuntimeError": RuntimeError}[fail]("this row is odd")
        # A first step long enough to be killed in.
        time.sleep(float((Path(folder) / "pace").read_text()) if step else 1.0)
    return x + 0.05 * torch.randn(x.shape, generator=generator), targets


recipe = Recipe(
    name="slow",
    task="tabular-classification",
    data=Data(source=rings, args={"count": 2000}),
    net=Net(source=Rings),
    augmentation=Augmentation(source=slowly, args={"folder": "?"}),
    optimizer=Optimizer(lr=0.02),
    stop=StopRule(epochs=3),
    checkpoints=CheckpointPolicy(interval_s=0.5),
    batch_size=16,
)
'''


class SlowRun:
    """One run, in the background; `folder` holds its recipe and what it says of itself."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder, self.file = folder, folder / "slow.py"
        self._environment = os.environ | {
            "SHOAL_HOME": str(home),
            "SHOAL_HTTP_PORT": "0",
            "SHOAL_GRPC_PORT": "0",
            "SHOAL_DASHBOARD_PORT": "0",
            "COLUMNS": "200",
        }
        folder.mkdir(exist_ok=True)
        self.file.write_text(RECIPE)
        self.pace(0.02)
        self.process: subprocess.Popen[bytes] | None = None

    def pace(self, step_s: float) -> None:
        """Make each step from now on take at least so long."""
        (self.folder / "pace.new").write_text(str(step_s))
        (self.folder / "pace.new").replace(self.folder / "pace")

    def start(self, *arguments: str, **args: object) -> None:
        """Begin `shoal train` with the recipe; args are the augmentation's."""
        settings = {"folder": self.folder} | args
        sets = [word for key, value in settings.items() for word in ("--set", f"augmentation.args.{key}={value}")]
        self.shoal("train", str(self.file), *sets, *arguments)

    def resume(self, *arguments: str) -> None:
        """Go on with the run."""
        self.shoal("train", "--resume", self.name, *arguments)

    def shoal(self, *arguments: str) -> None:
        """Run a command in the background."""
        for rank in self.folder.glob("rank-*"):
            rank.unlink()
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "shoal", *arguments],
            env=self._environment,
            stdout=(self.folder / "stdout").open("w"),
            stderr=(self.folder / "stderr").open("w"),
            # Where the tests themselves run in the background, children would ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )

    @property
    def name(self) -> str:
        """The run's, by the folder in which it keeps its checkpoints."""
        (kept,) = self.kept.iterdir()
        return kept.name

    @property
    def kept(self) -> Path:
        """Where checkpoints are."""
        return Path(self._environment["SHOAL_HOME"]) / "artifacts" / "runs"

    def at(self, step: int, rank: int = 0) -> int:
        """Wait until a living worker is at this step; returns its process number."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            assert self.process is not None
            assert self.process.poll() is None, self.said + self.complaint
            try:
                number, reached = (self.folder / f"rank-{rank}").read_text().split()
            except FileNotFoundError:
                number, reached = "0", "-1"
            if int(reached) >= step and alive(int(number)):
                return int(number)
            time.sleep(0.005)
        raise TimeoutError(f"no worker of rank {rank} came to step {step}: {self.said}{self.complaint}")

    def end(self) -> int:
        """Wait for the command; returns its exit code."""
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def wait_for(self, text: str) -> None:
        """Wait until the command has said this."""
        until_s = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert time.monotonic() < until_s, f"never said {text!r}: {self.said}{self.complaint}"
            time.sleep(0.05)

    def steps_kept(self) -> set[int]:
        """The steps of the checkpoints that are there now."""
        found = set()
        for file in self.kept.glob("*/checkpoint_*/state.json"):
            # Just written, or just deleted.
            with contextlib.suppress(OSError, ValueError):
                found.add(int(json.loads(file.read_text())["progress"]["steps"]))
        return found

    @property
    def said(self) -> str:
        """The command's output."""
        return (self.folder / "stdout").read_text()

    @property
    def complaint(self) -> str:
        """The command's errors."""
        return (self.folder / "stderr").read_text()

    @property
    def resumed_at(self) -> list[int]:
        """Steps that the run went on from."""
        return [int(step) for step in re.findall(r"resumed at step (\d+)", self.said)]

    def workers(self) -> list[int]:
        """Every process that has been a worker of this run and still lives."""
        numbers = {int(line) for line in (self.folder / "pids").read_text().split()}
        return [number for number in numbers if alive(number)]

    def assert_no_worker_lives(self) -> None:
        """Ray may take a moment to end them."""
        until_s = time.monotonic() + 60
        while self.workers() and time.monotonic() < until_s:
            time.sleep(0.2)
        assert self.workers() == []


def alive(number: int) -> bool:
    """Whether a process runs."""
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def weights(registry: Registry, reference: str = "slow") -> dict[str, torch.Tensor]:
    """The weights of a model's newest version."""
    return dict(load_bundle(registry.fetch_bundle(registry.list_versions(reference)[0])).net.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two nets are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
