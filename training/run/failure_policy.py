"""Failure policy: in Ray Train's controller, ends a run whose failures another try cannot mend.

Train walk: training.run.driver -> [failure_policy.py], beside Ray Train's controller, with what training.worker.failures raises
"""

import time
from contextlib import suppress
from typing import Any

import ray
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Queue

from training.errors import ServiceError, ShoalError
from training.worker.failures import TransientError, first_line, resume_hint

# So many times in a row workers may fail without a checkpoint in between.
MAX_CONSECUTIVE_FAILURES = 3
# Ray Train tells of one failure at every look, several times a second, where it waits out a machine's notice first; a
# new set of workers takes longer than this to start.
SAME_FAILURE_S = 2.0
# What Ray says of a death, and what that means.
DEATH_REASONS = {
    "NODE_OUT_OF_MEMORY": "its machine ran out of memory",
    "node has died": "its machine is gone",
    "worker process has died": "its process was killed, or crashed",
}


class FailurePolicy(UserCallback):
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
        self._send("report", 0, metrics=metrics[0])

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Look at what workers failed with; to raise here ends the run.

        Raises:
            ShoalError: another try would not help.
        """
        errors = {rank: _unwrap_error(error) for rank, error in sorted(worker_exceptions.items())}
        for error in errors.values():
            if isinstance(error, ShoalError):
                raise error
        now_s = time.monotonic()
        again, self._last_s = now_s - self._last_s < SAME_FAILURE_S, now_s
        if again:
            return
        # Where one worker died, the others stumble over it.
        dead = {rank: error for rank, error in errors.items() if not isinstance(error, TransientError)}
        own = {rank: error for rank, error in errors.items() if not _is_lost_peer(error)}
        told = {rank: _describe_failure(error) for rank, error in (dead or own or errors).items()}
        why = next(iter(told.values()))
        if not any(_is_preempted(error) for error in dead.values()):
            self._count_failure(why, repeated=why == self._last)
        # A death may well come twice; an error at the same step is no accident.
        self._last = why if own and not dead else ""
        for rank, said in told.items():
            self._send("died", rank, why=said)

    def _send(self, kind: str, rank: int, **values: Any) -> None:
        # What cannot be told is not worth a run.
        with suppress(ray.exceptions.RayError):
            self._queue.put({"kind": kind, "rank": rank, "at_s": time.time(), **values})

    def _count_failure(self, why: str, *, repeated: bool) -> None:
        self._failures += 1
        if repeated:
            raise ServiceError(f"{why}, twice; mend it, then {resume_hint(self._run)}")
        if self._failures > MAX_CONSECUTIVE_FAILURES:
            raise ServiceError(
                f"workers failed {self._failures} times in a row without a checkpoint in between, last: {why}; "
                f"mend it, then {resume_hint(self._run)}"
            )


def _unwrap_error(error: Exception) -> Exception:
    found = getattr(error, "_base_exc", error)
    return found if isinstance(found, Exception) else error


def _describe_failure(error: Exception) -> str:
    """What a worker failed with, in one line; of a death Ray says much, and little of it is this one's."""
    death = getattr(error, "health_check_failure", None)
    if death is None:
        return first_line(error)
    return next((plain for sign, plain in DEATH_REASONS.items() if sign in str(death)), first_line(death))


def _is_lost_peer(error: Exception) -> bool:
    """Whether this tells no more than that a worker is gone."""
    return error.lost_peer if isinstance(error, TransientError) else True


def _is_preempted(error: Exception) -> bool:
    """Whether a worker died because its machine was taken away, as announced."""
    return bool(getattr(getattr(error, "health_check_failure", None), "preempted", False))
