"""Failures: which of them a run outlives by going on from its last checkpoint, and which end it.

Train walk: training.run -> [failures.py], around training.loop in each worker and beside Ray Train's controller
A worker that dies is replaced: a machine is lost, memory runs out, somebody kills it. What would come again ends the
run at once, with one line that says what: an error that Shoal raised, or one in the recipe's own code. What may pass (a
connection, a file, whatever torch calls a RuntimeError) is tried again, but not when it comes twice at the same step.
"""

import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Queue

from training.errors import Failure, ShoalError

# So many times in a row workers may fail without a checkpoint in between.
MOST = 3
# Ray Train tells of one failure at every look, several times a second, where it waits out a machine's notice first; a
# new set of workers takes longer than this to start.
SAME_S = 2.0
# Errors that another try may mend. A connection that the death of another worker broke is a RuntimeError of torch's.
PASSING = (OSError, RuntimeError, MemoryError, ray.exceptions.RayError)
# What torch's collective libraries say where the worker at the other end is gone.
LOST = ("gloo", "NCCL", "Connection reset by peer", "Connection closed by peer")
# What Ray says of a death, and what that means.
DEATHS = {
    "NODE_OUT_OF_MEMORY": "its machine ran out of memory",
    "node has died": "its machine is gone",
    "worker process has died": "its process was killed, or crashed",
}
# Code in these folders is not a recipe's.
NOT_THE_RECIPES = [str(Path(__file__).parent), *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))]


class Stumble(Exception):
    """A worker's error that may pass; `lost` if it is only that another worker is gone."""

    def __init__(self, what: str, step: int, lost: bool) -> None:
        super().__init__(what, step, lost)
        self.what, self.step, self.lost = what, step, lost

    def __str__(self) -> str:
        return f"{self.what} at step {self.step}"


@contextmanager
def judged(step: Callable[[], int], run: str) -> Iterator[None]:
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
    except PASSING as error:
        lost = any(sign in str(error) for sign in LOST)
        raise Stumble("it lost another worker" if lost else _what(error), step(), lost) from error
    except Exception as error:
        raise Failure(f"{_what(error)} after step {step()}; mend it, then {how_to_go_on(run)}") from error


class Judge(UserCallback):
    """In Ray Train's controller: passes rank 0's reports on, and ends a run that another try cannot mend."""

    def __init__(self, queue: Queue, run: str) -> None:
        self._queue, self._run = queue, run
        self._failures = 0
        self._last = ""
        self._last_s = 0.0

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        """Forward what rank 0 reports; a checkpoint is progress, after which failures are counted anew."""
        if checkpoint is not None:
            self._failures = 0
        self._tell("report", 0, metrics=metrics[0])

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Look at what workers failed with; to raise here ends the run.

        Raises:
            ShoalError: another try would not help.
        """
        errors = {rank: _base(error) for rank, error in sorted(worker_exceptions.items())}
        for error in errors.values():
            if isinstance(error, ShoalError):
                raise error
        now_s = time.monotonic()
        again, self._last_s = now_s - self._last_s < SAME_S, now_s
        if again:
            return
        # Where one worker died, the others stumble over it.
        dead = {rank: error for rank, error in errors.items() if not isinstance(error, Stumble)}
        own = {rank: error for rank, error in errors.items() if not _lost(error)}
        told = {rank: _why(error) for rank, error in (dead or own or errors).items()}
        why = next(iter(told.values()))
        if not any(_preempted(error) for error in dead.values()):
            self._count(why, repeated=why == self._last)
        # A death may well come twice; an error at the same step is no accident.
        self._last = why if own and not dead else ""
        for rank, said in told.items():
            self._tell("died", rank, why=said)

    def _tell(self, kind: str, rank: int, **values: Any) -> None:
        # What cannot be told is not worth a run.
        with suppress(ray.exceptions.RayError):
            self._queue.put({"kind": kind, "rank": rank, "at_s": time.time(), **values})

    def _count(self, why: str, *, repeated: bool) -> None:
        self._failures += 1
        if repeated:
            raise Failure(f"{why}, twice; mend it, then {how_to_go_on(self._run)}")
        if self._failures > MOST:
            raise Failure(
                f"workers failed {self._failures} times in a row without a checkpoint in between, last: {why}; "
                f"mend it, then {how_to_go_on(self._run)}"
            )


def how_to_go_on(run: str) -> str:
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


def _what(error: Exception) -> str:
    """An error with the line of code that it comes from: the recipe's own where it passed through that."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(str(folder)) for folder in NOT_THE_RECIPES)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


def _base(error: Exception) -> Exception:
    found = getattr(error, "_base_exc", error)
    return found if isinstance(found, Exception) else error


def _why(error: Exception) -> str:
    """What a worker failed with, in one line; of a death Ray says much, and little of it is this one's."""
    death = getattr(error, "health_check_failure", None)
    if death is None:
        return first_line(error)
    return next((plain for sign, plain in DEATHS.items() if sign in str(death)), first_line(death))


def _lost(error: Exception) -> bool:
    """Whether this tells no more than that a worker is gone."""
    return error.lost if isinstance(error, Stumble) else True


def _preempted(error: Exception) -> bool:
    """Whether a worker died because its machine was taken away, as announced."""
    return bool(getattr(getattr(error, "health_check_failure", None), "preempted", False))
