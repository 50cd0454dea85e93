"""Ray Train's local mode in several processes and with a store: all private names of Ray that these tests use.

Read in Ray 2.60.0, as training/worker/ray_internals.py. The public local mode, ScalingConfig(num_workers=0), is one
process and stores no checkpoint.
"""

from pathlib import Path
from typing import Any

from ray.train import Checkpoint
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.train_fn_utils import LocalTrainFnUtils, set_train_fn_utils
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus

RUN = "run"


def install_local_mode(folder: Path, rank: int, world_size: int) -> None:
    """Make ray.train's functions work in this process; its checkpoints go to `folder / RUN / "0"`, `"1"`, ..."""
    set_train_fn_utils(_LocalMode(folder, rank, world_size))


def worker_death(cause: Exception) -> Exception:
    """Return what Ray Train reports of a worker that died."""
    return WorkerHealthCheckFailedError("A worker health check failed.", cause)


def errors_of_failed_worker(error: Exception) -> dict[int, Exception]:
    """Return what a callback in Ray Train's controller is called with where rank 0 raised `error`."""
    status = WorkerStatus(running=False, error=UserExceptionWithTraceback(error, "a traceback"))
    errors: dict[int, Exception] = WorkerGroupPollStatus(worker_statuses={0: status}).errors
    return errors


class _LocalMode(LocalTrainFnUtils):
    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        super().__init__(RUN, world_size=world_size, world_rank=rank, local_rank=rank, local_world_size=world_size)
        self._context.get_storage = lambda: StorageContext(folder, RUN)  # type: ignore[method-assign]
        self._num_checkpoints = 0

    def report(self, metrics: dict[str, Any], checkpoint: Checkpoint | None = None, *_: object, **options: Any) -> None:
        super().report(metrics)
        if checkpoint:
            options["checkpoint_upload_fn"](checkpoint, str(self._num_checkpoints))
            self._num_checkpoints += 1
