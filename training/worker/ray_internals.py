"""Every private or undocumented name of Ray that `training` uses; checked against Ray 2.60.0 (RAY_VERSION).

| name | used for (there is no public API) | if Ray changes |
|---|---|---|
| `TrainContext.get_storage()`: `experiment_fs_path`, `storage_filesystem`, `persist_current_checkpoint`, \
`build_checkpoint_path_from_name` (developer API) | upload a checkpoint that is written in Ray Train's upload thread, \
and delete half of one: `checkpoint_upload_fn` is not told where to upload to | a run refuses to start |
| `WorkerHealthCheckFailedError.health_check_failure` | why a worker died: the class has no public name | the cause \
of a death is Ray's own, longer text, and a preempted worker counts as failed |
| `_private.worker.print_to_stdstream` | silence the paragraph that Ray prints about each dead worker: it is no log \
message, and no setting stops it | the paragraph is printed |
| `checkpoint_manager_snapshot.json`: `checkpoint_results`, `checkpoint_dir_name` | whether Ray Train can resume a run \
from its own list of checkpoints | the list counts as unreadable: it is deleted, and the run resumes from the newest \
complete checkpoint |

tests/training/worker/test_ray_internals.py fails where another Ray is installed.
"""

import json
from contextlib import suppress

import ray
import ray.train
from ray.train import Checkpoint

from training.errors import ServiceError

RAY_VERSION = "2.60.0"
"""The Ray that these names were read in; constraints.txt pins it."""

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's list of a run's checkpoints, in the run's folder."""

_STORAGE_NAMES = (
    "experiment_fs_path",
    "storage_filesystem",
    "persist_current_checkpoint",
    "build_checkpoint_path_from_name",
)


class CheckpointStorage:
    """Where Ray Train keeps the checkpoints of the run that this worker belongs to.

    Raises:
        ServiceError: this Ray stores checkpoints in another way.
    """

    def __init__(self) -> None:
        self._storage = ray.train.get_context().get_storage()
        for name in _STORAGE_NAMES:
            if not hasattr(self._storage, name):
                raise ServiceError(
                    f"Ray {ray.__version__} has no {type(self._storage).__name__}.{name}, without which no checkpoint "
                    f"is stored; install ray=={RAY_VERSION}, as constraints.txt says"
                )

    @property
    def path(self) -> str:
        """The run's folder, without the URI's scheme."""
        return str(self._storage.experiment_fs_path)

    def upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Copy a local checkpoint to the run's folder under the name that Ray Train gave it."""
        uploaded: Checkpoint = self._storage.persist_current_checkpoint(checkpoint, name)
        return uploaded

    def delete(self, name: str) -> None:
        """Delete what was uploaded under a name.

        Raises:
            OSError: there is nothing, or it cannot be deleted.
        """
        self._storage.storage_filesystem.delete_dir(self._storage.build_checkpoint_path_from_name(name))


def get_cause_of_death(error: BaseException) -> BaseException | None:
    """Return the error of a worker that died, where `error` is Ray Train's report of a death; else None."""
    cause = getattr(error, "health_check_failure", None)
    return cause if isinstance(cause, BaseException) else None


def silence_worker_deaths() -> None:
    """Keep Ray from printing a paragraph about each worker that dies: the driver reports it in one line."""
    with suppress(ImportError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None


def parse_snapshot(content: bytes) -> list[str]:
    """Return the names of the checkpoint folders that Ray Train's list holds.

    Raises:
        ValueError: it is not such a list.
    """
    try:
        return [result["checkpoint_dir_name"] for result in json.loads(content)["checkpoint_results"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{SNAPSHOT_FILE} has another layout: {error!r}") from error
