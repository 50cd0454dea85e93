"""Checkpoints without pickle: tensors as safetensors, everything else as JSON.

Train walk: loop.py -> [checkpoint.py] -> parallel.py
Holds net, optimizer, schedule and progress; no random state, since every draw of the loop is seeded by (recipe seed,
step, rank). A snapshot is a copy in memory, taken between two steps; it is written and uploaded while training goes on.
"""

import json
import math
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.errors import ServiceError
from training.worker import parallel
from training.worker.error_classification import resume_hint
from training.worker.ray_internals import CheckpointStorage

TENSORS_FILE, METADATA_FILE = "state.safetensors", "state.json"
# The metric by which Ray Train orders checkpoints, higher is better. It is always a finite number: Ray Train cannot
# order by a missing one, and cannot read infinity or NaN back from its JSON.
ORDERING_METRIC = "order"
# Snapshots that wait for a store slower than the epochs would fill the memory, so training waits for the last upload.
_upload_slot = threading.Semaphore(1)


@dataclass
class TrainProgress:
    """How far a run is, and the best validation score so far.

    Attributes:
        epoch: epochs that are complete.
        epoch_step: steps that are complete of the next epoch.
        global_step: optimizer steps in all.
        seconds: time spent in training.
        loss_sum: sum of the losses of this epoch's rows so far.
        rows: number of this epoch's rows so far.
        first_loss: the run's first synchronized loss, to which a diverging one is compared.
        best_score: the best validation score.
        best_epoch: its epoch, from 1; of equal scores the last.
        last_improved_epoch: the last epoch whose score was better than all before.
        history: the metrics of each epoch.
        stop_reason: the stop rule that ended the run; empty while it goes on.
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
    """Everything that a resumed run must restore.

    Attributes:
        net: the trained net, not wrapped by DDP.
        ema: its moving average, where the recipe keeps one.
        best_weights: see Worker.
        optimizer: over the net's parameters.
        schedule: of the learning rate.
        progress: how far the run is.
    """

    net: nn.Module
    ema: nn.Module | None
    best_weights: dict[str, Tensor]
    optimizer: Optimizer
    schedule: LRScheduler
    progress: TrainProgress

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules whose state is saved, by the prefix of their tensors' names."""
        return {"net": self.net} | ({"ema": self.ema} if self.ema else {})


@dataclass(frozen=True)
class Snapshot:
    """A copy of a TrainState on the CPU; empty on all workers but rank 0.

    Attributes:
        tensors: by `net/NAME`, `ema/NAME`, `best/NAME`, `optimizer/PARAMETER/SLOT`.
        metadata: the rest, as JSON.
    """

    tensors: dict[str, Tensor]
    metadata: str


def take_snapshot(state: TrainState) -> Snapshot:
    """Copy a state to rank 0's memory; collective: a sharded net is gathered for it."""
    tensors = {f"best/{name}": tensor for name, tensor in state.best_weights.items()}
    for prefix, module in state.modules.items():
        tensors |= {f"{prefix}/{name}": tensor for name, tensor in parallel.get_full_state(module).items()}
    optimizer = parallel.get_full_optimizer_state(state.net, state.optimizer)
    scalars: dict[str, dict[str, float]] = {}
    for parameter, slots in optimizer["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{parameter}/{slot}"] = value
            else:
                scalars.setdefault(parameter, {})[slot] = value
    metadata = {
        "param_groups": optimizer["param_groups"],
        "optimizer_scalars": scalars,
        "schedule": state.schedule.state_dict(),
        "progress": vars(state.progress),
    }
    return Snapshot(tensors, json.dumps(metadata))


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot's two files."""
    save_file({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, folder / TENSORS_FILE)
    (folder / METADATA_FILE).write_text(snapshot.metadata)


def restore_state(folder: Path, state: TrainState) -> None:
    """Restore a state in place; collective. The net must be the same, the number of workers and their sharding not."""
    tensors = load_file(folder / TENSORS_FILE)
    metadata = json.loads((folder / METADATA_FILE).read_text())
    slots: dict[str, dict[str, Any]] = metadata["optimizer_scalars"]
    for key, tensor in _select_prefix("optimizer/", tensors).items():
        parameter, slot = key.rsplit("/", 1)
        slots.setdefault(parameter, {})[slot] = tensor
    optimizer = {"state": slots, "param_groups": metadata["param_groups"]}
    parallel.load_full_optimizer_state(state.net, state.optimizer, optimizer)
    for prefix, module in state.modules.items():
        parallel.load_full_state(module, _select_prefix(f"{prefix}/", tensors))
    if parallel.is_rank_zero():
        state.best_weights.update(_select_prefix("best/", tensors))
    state.schedule.load_state_dict(metadata["schedule"])
    vars(state.progress).update(metadata["progress"])


def ordering_metric(score: float | None, *, higher_is_better: bool) -> dict[str, float]:
    """Return the metric that orders a checkpoint among the others; without a finite score, last."""
    if score is None or not math.isfinite(score):
        return {ORDERING_METRIC: -sys.float_info.max}
    return {ORDERING_METRIC: score if higher_is_better else -score}


def report_checkpoint(
    metrics: dict[str, Any], snapshot: Snapshot, storage: CheckpointStorage, *, rank: int, run: str
) -> None:
    """Report to Ray Train, with a checkpoint that is written and uploaded while training goes on; on every worker.

    A checkpoint counts only once it is uploaded; one that cannot be uploaded ends the run, and the earlier ones stay.
    """
    if rank:
        ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
        return
    _upload_slot.acquire()
    # Ray Train gives each worker a working directory inside its own temporary one.
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=Path.cwd()))
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=_make_upload(storage, run, lambda: write_snapshot(folder, snapshot)),
        delete_local_checkpoint_after_upload=True,
    )


def report_final(metrics: dict[str, Any], folder: Path, storage: CheckpointStorage, *, run: str) -> None:
    """Report a folder that is already written, and wait until it is uploaded; rank 0 only."""
    _upload_slot.acquire()
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_fn=_make_upload(storage, run, lambda: None),
    )


def _make_upload(
    storage: CheckpointStorage, run: str, write_files: Callable[[], None]
) -> Callable[[Checkpoint, str], Checkpoint]:
    def upload(local: Checkpoint, name: str) -> Checkpoint:
        destination = local.path
        try:
            write_files()
            destination = storage.path
            return storage.upload(local, name)
        except Exception as error:
            # The half that is there would take the room that a complete one needs.
            shutil.rmtree(local.path, ignore_errors=True)
            with suppress(OSError):
                storage.delete(name)
            raise ServiceError(
                f"a checkpoint cannot be stored in {destination}: {' '.join(str(error).split())}; earlier ones are "
                f"kept: free some space or repair the store, then {resume_hint(run)}"
            ) from error
        finally:
            _upload_slot.release()

    return upload


def _select_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
