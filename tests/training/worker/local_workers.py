"""Workers in processes of this machine: Shoal's own worker and loop in Ray Train's local mode, over gloo, no cluster.

What Ray Train adds on a cluster (placing workers, bringing them back, storing reports) is for tests/e2e.
"""

import json
import multiprocessing
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.train_fn_utils import LocalTrainFnUtils, set_train_fn_utils
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.recipe.spec import Recipe
from training.schema import TableInput
from training.worker import loop, parallel
from training.worker.checkpoint import TrainProgress
from training.worker.step import Worker
from training.worker.step_timer import StepTimer

# One process imports torch and Ray; each worker is a copy of it, ready at once.
FORKS = multiprocessing.get_context("forkserver")
# DDP imports the second when it is made.
FORKS.set_forkserver_preload(["tests.training.worker.local_workers", "torch._dynamo", "torch.distributed.fsdp"])
MOST_S = 100


@dataclass(frozen=True)
class Ran:
    """What one worker leaves: how far it came, its net's weights (whole), its phases, its bytes, what it told."""

    progress: TrainProgress
    weights: dict[str, Tensor]
    seconds: dict[str, float]
    bytes: int
    steps: int
    told: list[dict[str, Any]]
    # The part of each weight that this worker holds.
    held: float

    @property
    def losses(self) -> list[float]:
        return [epoch["loss"] for epoch in self.progress.history]

    @property
    def scores(self) -> list[float]:
        return [epoch["validation_accuracy"] for epoch in self.progress.history]


def train(
    recipe: Recipe, folder: Path, *, epochs: int = 10**6, profile: bool = False, last: Path | None = None
) -> list[Ran]:
    """Train with `recipe.workers` processes; returns what each leaves.

    Args:
        recipe: what to train.
        folder: of this run alone; its checkpoints are in `run/0`, `run/1`, ...
        epochs: all workers are gone after so many, as if they had been killed.
        profile: as `shoal train --profile`.
        last: the checkpoint to go on from.
    """
    folder.mkdir()
    arguments = (recipe.workers, str(folder), recipe.model_dump_json(), epochs, profile, last and str(last))
    workers = [FORKS.Process(target=_worker, args=(rank, *arguments)) for rank in range(recipe.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(MOST_S)
    late = [worker for worker in workers if worker.is_alive()]
    for worker in late:
        worker.kill()
        worker.join()
    assert not late, f"{len(late)} workers did not end; {_said(folder)}"
    assert all(worker.exitcode == 0 for worker in workers), _said(folder)
    return [_read(folder, rank) for rank in range(recipe.workers)]


def _said(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob("error-*")))


def _read(folder: Path, rank: int) -> Ran:
    found = json.loads((folder / f"{rank}.json").read_text())
    progress = TrainProgress(**found.pop("progress"))
    return Ran(progress=progress, weights=load_file(folder / f"{rank}.safetensors"), **found)


def _worker(rank: int, world: int, place: str, recipe: str, epochs: int, profile: bool, last: str | None) -> None:
    folder = Path(place)
    try:
        os.chdir(folder)
        # What torch.compile makes goes with the test, and nobody is left waiting for more to compile.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        torch._inductor.config.compile_threads = 1
        torch._inductor.config.cpp_cache_precompile_headers = False
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
        set_train_fn_utils(_Local(folder, rank, world))
        _train(rank, world, folder, Recipe.model_validate_json(recipe), epochs, profile, last)
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise


def _train(rank: int, world: int, folder: Path, recipe: Recipe, epochs: int, profile: bool, last: str | None) -> None:
    progress, phases, told = TrainProgress(), StepTimer(on=profile), _Told()
    worker = Worker(recipe, rank, world, phases, progress)
    steps = loop._TrainLoop(worker, "run", told)  # type: ignore[arg-type]
    steps.resume(last)
    with phases.measure("all"):
        while not progress.stop_reason and progress.epoch < epochs:
            steps.train_epoch()
            steps.end_epoch()
    save_file(parallel.full_state_dict(worker.net), folder / f"{rank}.safetensors")
    whole = sum(weight.numel() for weight in worker.net.parameters())
    mine = sum(getattr(weight, "to_local", lambda w=weight: w)().numel() for weight in worker.net.parameters())
    found = {
        "progress": vars(progress),
        "seconds": phases.seconds,
        "bytes": phases.all_reduce_bytes,
        "steps": phases.steps,
    }
    found |= {"told": told.messages, "held": mine / whole}
    (folder / f"{rank}.json").write_text(json.dumps(found))


class _Told:
    """The worker's end of the messages; nobody reads them while it trains."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def put(self, kind: str, **values: float) -> None:
        self.messages.append({"kind": kind, **values})


class _Local(LocalTrainFnUtils):  # type: ignore[misc]
    """Ray Train's local mode, which keeps no checkpoints, with a store."""

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        super().__init__("run", world_size=world, world_rank=rank, local_rank=rank, local_world_size=world)
        self._context.get_storage = lambda: StorageContext(folder, "run")
        self._kept = 0

    def report(self, metrics: dict[str, Any], checkpoint: Checkpoint | None = None, *_: object, **options: Any) -> None:
        super().report(metrics)
        if checkpoint:
            options["checkpoint_upload_fn"](checkpoint, str(self._kept))
            self._kept += 1


def rings(count: int = 400, width: int = 4) -> Dataset:
    """Points inside and outside of a ring, which no line divides."""
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return Dataset(
        inputs=x,
        targets=(x[:, :2].norm(dim=1) > 1.2).long(),
        labels=("inner", "outer"),
        input_schema=TableInput(features=tuple(f"x{n}" for n in range(width))),
    )


class Tower(nn.Module):
    """Blocks that repeat, without what ties the rows of a batch together."""

    def __init__(self, features: int, classes: int, width: int = 32, depth: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + self.dropout(block(x.relu()))
        y: Tensor = self.last(x)
        return y
