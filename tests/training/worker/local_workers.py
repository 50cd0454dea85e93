"""Workers in processes of this machine: `train_worker` in Ray Train's local mode, over gloo, without a cluster.

What Ray Train adds on a cluster (placing workers, replacing them, its account of checkpoints) is tested in tests/e2e.
"""

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.training.worker.ray_local_mode import RUN, install_local_mode
from training.data.dataset import Dataset
from training.recipe.spec import Recipe
from training.schema import TableInput
from training.worker.checkpoint import TrainProgress
from training.worker.energy import EnergyMeter
from training.worker.finalize import Finalize
from training.worker.gradients import GradientAccumulation
from training.worker.loop import train_worker
from training.worker.training_worker import GradientStepFactory, Worker

# One process imports torch and Ray; each worker is a fork of it, ready at once.
FORKSERVER = multiprocessing.get_context("forkserver")
# DDP imports the second when it is made, the end of a run the last two.
FORKSERVER.set_forkserver_preload(
    [
        "tests.training.worker.local_workers",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "networkx",
        "training.evaluation.plots",
    ]
)
TIMEOUT_S = 100


@dataclass(frozen=True)
class WorkerResult:
    """What one worker leaves.

    Attributes:
        progress: how far it came.
        weights: its net's full state.
        seconds: by phase.
        all_reduce_bytes: of gradients.
        steps: that were timed.
        messages: what it sent to the driver, without rank and time.
        shard_fraction: share of the weights that this worker holds.
    """

    progress: TrainProgress
    weights: dict[str, Tensor]
    seconds: dict[str, float]
    all_reduce_bytes: int
    steps: int
    messages: list[dict[str, Any]]
    shard_fraction: float

    @property
    def losses(self) -> list[float]:
        return [epoch["loss"] for epoch in self.progress.history]

    @property
    def scores(self) -> list[float]:
        return [epoch["validation_accuracy"] for epoch in self.progress.history]


def train(
    recipe: Recipe,
    folder: Path,
    *,
    profile: bool = False,
    last_checkpoint: Path | None = None,
    gradient_step: GradientStepFactory = GradientAccumulation,
) -> list[WorkerResult]:
    """Train with `recipe.workers` processes; returns the result of each.

    Args:
        recipe: what to train.
        folder: of this run alone; its checkpoints are in `run/0`, `run/1`, ...
        profile: as `shoal train --profile`.
        last_checkpoint: to resume from.
        gradient_step: as of `train_worker`.
    """
    config = make_config(recipe, profile=profile, last_checkpoint=last_checkpoint)
    start_workers(config, folder, gradient_step=gradient_step, finalize=partial(_save_result, folder))
    return [_load_result(folder, rank) for rank in range(recipe.workers)]


def make_config(recipe: Recipe, *, profile: bool = False, last_checkpoint: Path | None = None) -> dict[str, Any]:
    """Return what the driver passes to `train_worker`."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "run": RUN,
        "git_commit": None,
        "profile": profile,
        "country": "",
        "channel": RecordingChannel(),
        "scan": None,
        "last_checkpoint": last_checkpoint and str(last_checkpoint),
    }


def start_workers(config: dict[str, Any], folder: Path, **strategies: GradientStepFactory | Finalize) -> None:
    """Run `train_worker` in as many processes as the recipe has workers, until all have ended."""
    folder.mkdir()
    world_size = config["recipe"]["workers"]
    workers = [
        FORKSERVER.Process(target=_run_worker, args=(rank, world_size, folder, config, strategies))
        for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(TIMEOUT_S)
    hanging = [worker for worker in workers if worker.is_alive()]
    for worker in hanging:
        worker.kill()
        worker.join()
    assert not hanging, f"{len(hanging)} workers did not end; {_read_errors(folder)}"
    assert all(worker.exitcode == 0 for worker in workers), _read_errors(folder)


class RecordingChannel:
    """A ProgressChannel that keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def put_nowait(self, message: dict[str, Any]) -> None:
        self.messages.append({name: value for name, value in message.items() if name not in ("rank", "at_s")})


def _run_worker(rank: int, world_size: int, folder: Path, config: dict[str, Any], strategies: dict[str, Any]) -> None:
    try:
        os.chdir(folder)
        # What torch.compile makes goes with the test, and nobody is left waiting for more to compile.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        torch._inductor.config.compile_threads = 1
        torch._inductor.config.cpp_cache_precompile_headers = False
        torch.set_num_threads(1)
        # No energy is measured: codecarbon examines the processor for seconds.
        sys.modules["codecarbon"] = None  # type: ignore[assignment]
        init_method = f"file://{folder / 'rendezvous'}"
        dist.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
        install_local_mode(folder, rank, world_size)
        train_worker(config, **strategies)
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise


def _read_errors(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob("error-*")))


def _save_result(folder: Path, worker: Worker, config: Mapping[str, Any], _: EnergyMeter) -> None:
    """End a run with the result of each worker, in place of the bundle."""
    state = worker.net.state_dict()
    weights = {name: full_tensor(tensor) for name, tensor in state.items()}
    save_file(weights, folder / f"{worker.rank}.safetensors")
    parameters = [parameter.detach() for parameter in worker.net.parameters()]
    local = [parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in parameters]
    result = {
        "progress": vars(worker.progress),
        "seconds": worker.timer.seconds,
        "all_reduce_bytes": worker.timer.all_reduce_bytes,
        "steps": worker.timer.steps,
        "messages": config["channel"].messages,
        "shard_fraction": sum(t.numel() for t in local) / sum(t.numel() for t in parameters),
    }
    (folder / f"{worker.rank}.json").write_text(json.dumps(result))


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _load_result(folder: Path, rank: int) -> WorkerResult:
    result = json.loads((folder / f"{rank}.json").read_text())
    progress = TrainProgress(**result.pop("progress"))
    return WorkerResult(progress=progress, weights=load_file(folder / f"{rank}.safetensors"), **result)


def rings(count: int = 400, width: int = 4) -> Dataset:
    """Points inside and outside of a circle, which no line separates."""
    x_NF = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return Dataset(
        inputs=x_NF,
        targets=(x_NF[:, :2].norm(dim=1) > 1.2).long(),
        labels=("inner", "outer"),
        input_schema=TableInput(features=tuple(f"x{n}" for n in range(width))),
    )


class Tower(nn.Module):
    """Repeated blocks, without batch normalization: every row's output depends on this row only."""

    def __init__(
        self, num_features: int, num_classes: int, width: int = 32, depth: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first = nn.Linear(num_features, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, num_classes)

    def forward(self, x_BF: Tensor) -> Tensor:
        x = self.first(x_BF)
        for block in self.blocks:
            x = x + self.dropout(block(x.relu()))
        y_BC: Tensor = self.last(x)
        return y_BC
