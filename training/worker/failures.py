"""Failures: which of them a run outlives by going on from its last checkpoint, and which end it.

Train walk: training.run.driver -> [failures.py], around training.worker.loop in each worker and beside Ray Train's controller
A worker that dies is replaced: a machine is lost, memory runs out, somebody kills it. What would come again ends the
run at once, with one line that says what: an error that Shoal raised, or one in the recipe's own code. What may pass (a
connection, a file, whatever torch calls a RuntimeError) is tried again, but not when it comes twice at the same step.
"""

import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from training.errors import ServiceError, ShoalError

# Errors that another try may mend. A connection that the death of another worker broke is a RuntimeError of torch's.
RETRYABLE_ERRORS = (OSError, RuntimeError, MemoryError, ray.exceptions.RayError)
# What torch's collective libraries say where the worker at the other end is gone.
LOST_PEER_SIGNS = ("gloo", "NCCL", "Connection reset by peer", "Connection closed by peer")
# Code in these folders is not a recipe's.
LIBRARY_FOLDERS = [str(Path(__file__).parent), *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))]


class TransientError(Exception):
    """A worker's error that may pass; `lost` if it is only that another worker is gone."""

    def __init__(self, what: str, step: int, lost: bool) -> None:
        super().__init__(what, step, lost)
        self.what, self.step, self.lost_peer = what, step, lost

    def __str__(self) -> str:
        return f"{self.what} at step {self.step}"


@contextmanager
def classify_failures(step: Callable[[], int], run: str) -> Iterator[None]:
    """Put a worker's error so that the controller knows what to make of it.

    Args:
        step: says how many steps the run has made.
        run: its name, for the message.

    Raises:
        ShoalError: as it was.
        Stumble: another try may mend it.
        Failure: it is an error in code, and would come again.
    """
    try:
        yield
    except ShoalError:
        raise
    except RETRYABLE_ERRORS as error:
        lost = any(sign in str(error) for sign in LOST_PEER_SIGNS)
        raise TransientError("it lost another worker" if lost else _describe_error(error), step(), lost) from error
    except Exception as error:
        raise ServiceError(f"{_describe_error(error)} after step {step()}; mend it, then {resume_hint(run)}") from error


def resume_hint(run: str) -> str:
    """What to type."""
    return f"go on from its last checkpoint with `shoal train --resume {run}`"


def root_cause(error: BaseException) -> BaseException:
    """Find what a worker said, under the layers that Ray wraps around it."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    while True:
        inner = (
            getattr(error, "controller_failure", None)
            or getattr(error, "_base_exc", None)
            or getattr(error, "cause", None)
            or error.__cause__
        )
        if not isinstance(inner, BaseException) or isinstance(error, ShoalError):
            return error
        error = inner


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _describe_error(error: Exception) -> str:
    """An error with the line of code that it comes from: the recipe's own where it passed through that."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(str(folder)) for folder in LIBRARY_FOLDERS)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
