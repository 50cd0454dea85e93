"""Checkpoints without pickle: tensors in safetensors, everything else in JSON.

Holds nets, optimiser, schedule and position. There is no random state to keep: every draw of the loop is seeded by
(recipe seed, epoch, step, rank), so the position says it all. A snapshot is taken while training stands still, which is
a copy in memory; files are written and carried to the store while it goes on.
"""

import contextlib
import json
import math
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint
from ray.train.v2.api.report_config import CheckpointUploadMode
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.errors import ServiceError
from training.worker import parallel

TENSORS_FILE, METADATA_FILE = "state.safetensors", "state.json"
# What Ray Train orders checkpoints by, the higher the better: it holds neither for what has no score, nor, once it has
# been written down and read again, for what is no finite number.
ORDERING_METRIC = "order"
# A store that is slower than the epochs holds training up; snapshots that wait for it would fill the memory.
_upload_slot = threading.Semaphore(1)


@dataclass
class TrainProgress:
    """How far a run is, and the best it has seen.

    Attributes:
        epoch: epochs that are done.
        step: steps that are done of the one after.
        steps: optimiser steps in all.
        seconds: spent in training.
        loss_sum: of the rows of this epoch so far.
        rows: of this epoch so far.
        first_loss: the run's first, which tells whether a later one has exploded.
        best_score: of a validation.
        best_epoch: where that was, from 1; of equal scores the last.
        risen_epoch: where a score was last better than all before.
        history: the metrics of each epoch.
        stopped: why the run is over; empty while it goes on.
    """

    epoch: int = 0
    epoch_step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    rows: int = 0
    first_loss: float | None = None
    best_score: float | None = None
    best_epoch: int = 0
    last_improved_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    stop_reason: str = ""


@dataclass(frozen=True)
class TrainState:
    """Everything that a resumed run must find as it was; `best` is a whole state dict, empty before the first."""

    nets: dict[str, nn.Module]
    best: dict[str, Tensor]
    optimizer: Optimizer
    schedule: LRScheduler
    progress: TrainProgress


@dataclass(frozen=True)
class Snapshot:
    """A State copied to memory of its own."""

    tensors: dict[str, Tensor]
    metadata: str


def take_snapshot(state: TrainState) -> Snapshot:
    """Copy a state; all workers must ask for it, since a sharded net is put together for it."""
    tensors: dict[str, Tensor] = {f"best/{key}": value for key, value in state.best.items()}
    for name, net in state.nets.items():
        tensors |= {f"{name}/{key}": value for key, value in parallel.full_state_dict(net).items()}
    optimiser = state.optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, slots in optimiser["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{index}/{slot}"] = parallel.full_tensor(value.detach()).cpu().clone()
            else:
                scalars.setdefault(str(index), {})[slot] = value
    rest = {
        "groups": optimiser["param_groups"],
        "scalars": scalars,
        "schedule": state.schedule.state_dict(),
        "progress": vars(state.progress),
    }
    return Snapshot(tensors, json.dumps(rest))


def write_snapshot(folder: Path, taken: Snapshot) -> None:
    """Write a snapshot's two files."""
    save_file({key: value.contiguous() for key, value in taken.tensors.items()}, folder / TENSORS_FILE)
    (folder / METADATA_FILE).write_text(taken.metadata)


def restore_state(folder: Path, state: TrainState) -> None:
    """Bring everything back to what `snapshot` saw; shapes and names must be the same, the number of workers not."""
    tensors = load_file(folder / TENSORS_FILE)
    rest = json.loads((folder / METADATA_FILE).read_text())
    for name, net in state.nets.items():
        parallel.load_full_state_dict(net, _strip_prefix(f"{name}/", tensors))
    state.best.update(_strip_prefix("best/", tensors))
    slots: dict[int, dict[str, Any]] = {int(index): dict(found) for index, found in rest["scalars"].items()}
    weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
    for key, value in _strip_prefix("optimiser/", tensors).items():
        index, slot = key.split("/")
        slots.setdefault(int(index), {})[slot] = parallel.shard_like(value, weights[int(index)])
    state.optimizer.load_state_dict({"state": slots, "param_groups": rest["groups"]})
    state.schedule.load_state_dict(rest["schedule"])
    vars(state.progress).update(rest["progress"])


def ordering_metric(score: float | None, *, higher: bool) -> dict[str, float]:
    """Where a checkpoint stands among the others, as one more metric; without a score, last."""
    found = (score if higher else -score) if score is not None and math.isfinite(score) else -sys.float_info.max
    return {ORDERING_METRIC: found}


def report_checkpoint(metrics: dict[str, Any], taken: Snapshot, rank: int, *, run: str) -> None:
    """Report to Ray Train, with a checkpoint that is written and stored while training goes on.

    A checkpoint counts only once all of it is stored; one that cannot be stored ends the run, with what was kept
    before as it was.
    """
    if rank:
        ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
        return
    _upload_slot.acquire()
    # Ray Train gives each worker a working folder inside its own temp dir.
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=Path.cwd()))
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=_make_upload(run, lambda: write_snapshot(folder, taken)),
        delete_local_checkpoint_after_upload=True,
    )


def report_final(metrics: dict[str, Any], folder: Path, *, run: str) -> None:
    """Report a folder that is written already, and wait until it is stored; rank 0 alone."""
    _upload_slot.acquire()
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_fn=_make_upload(run, lambda: None),
    )


def _make_upload(run: str, write_files: Callable[[], None]) -> Callable[[Checkpoint, str], Checkpoint]:
    storage = ray.train.get_context().get_storage()

    def store(local: Checkpoint, name: str) -> Checkpoint:
        place = local.path
        try:
            write_files()
            place = storage.experiment_fs_path
            kept: Checkpoint = storage.persist_current_checkpoint(local, name)
        except Exception as error:
            # Half of it would take room from what is whole.
            shutil.rmtree(local.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                storage.storage_filesystem.delete_dir(storage.build_checkpoint_path_from_name(name))
            raise ServiceError(
                f"a checkpoint cannot be stored in {place}: {' '.join(str(error).split())}; earlier ones are kept: "
                f"make room or mend the store, then go on with `shoal train --resume {run}`"
            ) from error
        finally:
            _upload_slot.release()
        return kept

    return store


def _strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
