"""A training run with slow steps, so that tests can kill its processes at a chosen one."""

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

TIMEOUT_S = 240.0
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


def make_rings(count: int) -> Dataset:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return Dataset(
        inputs=x,
        targets=(x.norm(dim=1) > 1.2).long(),
        labels=("inner", "outer"),
        input_schema=TableInput(features=("x", "y")),
    )


def add_noise_slowly(x, targets, generator, folder: str, error: str = "", error_step: int = 0):
    """Add noise to the rows; on a worker, also record its process and step, and sleep for the set time."""
    if dist.is_initialized():
        step = (generator.initial_seed() - 1) // 2 // 1009
        rank_file = Path(folder) / f"rank-{dist.get_rank()}"
        rank_file.with_suffix(".new").write_text(f"{os.getpid()} {step}")
        rank_file.with_suffix(".new").replace(rank_file)
        with (Path(folder) / "pids").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if error and step == error_step and dist.get_rank() == 0:
            if error == "nan":
                return x * torch.nan, targets
            raise {"ValueError": ValueError, "RuntimeError": RuntimeError}[error]("invalid row")
        # The first step is long enough to kill the worker during it.
        time.sleep(float((Path(folder) / "step_s").read_text()) if step else 1.0)
    return x + 0.05 * torch.randn(x.shape, generator=generator), targets


recipe = Recipe(
    name="slow",
    task="tabular-classification",
    data=Data(source=make_rings, args={"count": 2000}),
    net=Net(source=Rings),
    augmentation=Augmentation(source=add_noise_slowly, args={"folder": "?"}),
    optimizer=Optimizer(lr=0.02),
    stop=StopRule(epochs=3),
    checkpoints=CheckpointPolicy(interval_s=0.5),
    batch_size=16,
)
'''


class SlowRun:
    """One run, in the background; `folder` holds its recipe, its output and the files that its workers write."""

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
        self.set_step_time(0.02)
        self.process: subprocess.Popen[bytes] | None = None

    def set_step_time(self, step_s: float) -> None:
        """Set the shortest time of each step from now on."""
        (self.folder / "step_s.new").write_text(str(step_s))
        (self.folder / "step_s.new").replace(self.folder / "step_s")

    def start(self, *arguments: str, **augmentation_args: object) -> None:
        """Start `shoal train` with the recipe."""
        args = {"folder": self.folder} | augmentation_args
        overrides = [word for key, value in args.items() for word in ("--set", f"augmentation.args.{key}={value}")]
        self._run_in_background("train", str(self.file), *overrides, *arguments)

    def resume(self, *arguments: str) -> None:
        """Start `shoal train --resume` with the run."""
        self._run_in_background("train", "--resume", self.name, *arguments)

    def _run_in_background(self, *arguments: str) -> None:
        for rank in self.folder.glob("rank-*"):
            rank.unlink()
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "shoal", *arguments],
            env=self._environment,
            stdout=(self.folder / "stdout").open("w"),
            stderr=(self.folder / "stderr").open("w"),
            # A shell starts background jobs, the tests perhaps, with SIGINT ignored; children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )

    @property
    def name(self) -> str:
        """The run's name, from the folder of its checkpoints."""
        (folder,) = self.checkpoints_folder.iterdir()
        return folder.name

    @property
    def checkpoints_folder(self) -> Path:
        """The folder of all runs' checkpoints."""
        return Path(self._environment["SHOAL_HOME"]) / "artifacts" / "runs"

    def wait_for_step(self, step: int, rank: int = 0) -> int:
        """Wait until a live worker of this rank has reached this step; returns its pid."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            assert self.process is not None
            assert self.process.poll() is None, self.stdout + self.stderr
            try:
                pid, worker_step = (self.folder / f"rank-{rank}").read_text().split()
            except FileNotFoundError:
                pid, worker_step = "0", "-1"
            if int(worker_step) >= step and is_alive(int(pid)):
                return int(pid)
            time.sleep(0.005)
        raise TimeoutError(f"no worker of rank {rank} reached step {step}: {self.stdout}{self.stderr}")

    def wait(self) -> int:
        """Wait until the command ends; returns its exit code."""
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    def wait_for_output(self, text: str) -> None:
        """Wait until the command has printed this."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while text not in self.stdout:
            assert time.monotonic() < deadline_s, f"{text!r} was not printed: {self.stdout}{self.stderr}"
            time.sleep(0.05)

    def list_checkpoint_steps(self) -> set[int]:
        """Return the steps of the checkpoints that exist now."""
        steps = set()
        for file in self.checkpoints_folder.glob("*/checkpoint_*/state.json"):
            # It may be incomplete, or deleted meanwhile.
            with contextlib.suppress(OSError, ValueError):
                steps.add(int(json.loads(file.read_text())["progress"]["global_step"]))
        return steps

    @property
    def stdout(self) -> str:
        """What the command has printed."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What the command has printed on standard error."""
        return (self.folder / "stderr").read_text()

    @property
    def resumed_steps(self) -> list[int]:
        """Steps of the checkpoints from which the command's run was resumed."""
        return [int(step) for step in re.findall(r"resumed at step (\d+)", self.stdout)]

    def list_live_workers(self) -> list[int]:
        """Return the pids of this run's workers that are still alive."""
        pids = {int(line) for line in (self.folder / "pids").read_text().split()}
        return [pid for pid in pids if is_alive(pid)]

    def assert_no_live_workers(self) -> None:
        """Assert that all workers have ended, for which Ray gets a minute."""
        deadline_s = time.monotonic() + 60
        while self.list_live_workers() and time.monotonic() < deadline_s:
            time.sleep(0.2)
        assert self.list_live_workers() == []


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def load_weights(registry: Registry, reference: str = "slow") -> dict[str, torch.Tensor]:
    """Return the weights of a model's newest version."""
    return dict(load_bundle(registry.fetch_bundle(registry.list_versions(reference)[0])).net.state_dict())


def are_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether the weights of two nets are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
