"""Every private name of Ray that `training.run` uses, read in the version that training.worker.ray_internals names.

| name | used for, for want of a public way | if Ray changes |
|---|---|---|
| `UserExceptionWithTraceback._base_exc` | the error that a worker's code raised, in `UserCallback.after_exception`, \
which is given Ray's wrapper | the wrapper's text is the reason of a failure, and a run whose error is final is \
retried until it has failed MAX_CONSECUTIVE_FAILURES times in a row |
| `checkpoint_manager_snapshot.json`: `checkpoint_results`, `checkpoint_dir_name` | decide whether Ray Train can \
resume a run from its own list of checkpoints | the list counts as unreadable: it is deleted, and the run resumes from \
the newest complete checkpoint |

tests/training/run/test_ray_internals.py fails where another Ray is installed.
"""

import json

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's list of a run's checkpoints, in the run's folder."""


def unwrap_worker_error(error: Exception) -> Exception:
    """Return the error that a worker's code raised, inside what Ray Train wraps around it."""
    inner = getattr(error, "_base_exc", error)
    return inner if isinstance(inner, Exception) else error


def parse_snapshot(content: bytes) -> list[str]:
    """Return the names of the checkpoint folders that Ray Train's list holds.

    Raises:
        ValueError: it is not such a list.
    """
    try:
        return [result["checkpoint_dir_name"] for result in json.loads(content)["checkpoint_results"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{SNAPSHOT_FILE} has another layout: {error!r}") from error
