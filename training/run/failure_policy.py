"""Failure policy: a callback in Ray Train's controller that ends a run whose error is not to be retried.

Train walk: training.worker.error_classification -> [failure_policy.py] -> ray_train.py
"""

import time
from contextlib import suppress
from typing import Any

import ray
from ray.train import UserCallback

from training.errors import ServiceError, ShoalError
from training.worker.error_classification import TransientError, first_line, resume_hint
from training.worker.progress_channel import ProgressChannel
from training.worker.ray_internals import get_cause_of_death

# Failures in a row, without a checkpoint in between, that are retried.
MAX_CONSECUTIVE_FAILURES = 3
# While Ray Train waits out a preemption notice it calls after_exception several times a second for one failure; new
# workers take longer than this to start.
SAME_FAILURE_S = 2.0
# Parts of Ray's text about a dead worker, and what they mean.
DEATH_REASONS = {
    "NODE_OUT_OF_MEMORY": "its machine ran out of memory",
    "node has died": "its machine is gone",
    "worker process has died": "its process was killed, or crashed",
}


class FailurePolicy(UserCallback):
    """Ray Train's callback: forwards rank 0's reports to the driver, and ends a run that a retry cannot fix."""

    def __init__(self, channel: ProgressChannel, run: str) -> None:
        self._channel, self._run = channel, run
        self._failures = 0
        self._last_reason = ""
        self._last_failure_s = 0.0

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        """Forward what rank 0 reports; a checkpoint resets the count of failures."""
        if checkpoint is not None:
            self._failures = 0
        self._send("report", 0, metrics=metrics[0])

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Decide after workers have failed: raising ends the run, returning retries it.

        Raises:
            ShoalError: a retry would not help.
        """
        errors = dict(sorted(worker_exceptions.items()))
        for error in errors.values():
            if isinstance(error, ShoalError):
                raise error
        now_s = time.monotonic()
        is_same_failure, self._last_failure_s = now_s - self._last_failure_s < SAME_FAILURE_S, now_s
        if is_same_failure:
            return
        # The death of one worker makes the others fail; the reason is the dead one's.
        deaths = {rank: error for rank, error in errors.items() if not isinstance(error, TransientError)}
        own_errors = {rank: error for rank, error in errors.items() if not _is_lost_peer(error)}
        reasons = {rank: _describe_failure(error) for rank, error in (deaths or own_errors or errors).items()}
        reason = next(iter(reasons.values()))
        if not any(_is_preempted(error) for error in deaths.values()):
            self._count_failure(reason, is_repeated=reason == self._last_reason)
        # Workers may die twice; an error that comes twice at the same step would come again.
        self._last_reason = reason if own_errors and not deaths else ""
        for rank, text in reasons.items():
            self._send("worker_failed", rank, reason=text, has_died=rank in deaths)

    def _send(self, kind: str, rank: int, **values: Any) -> None:
        # A message that cannot be delivered must not end the run.
        with suppress(ray.exceptions.RayError):
            self._channel.put({"kind": kind, "rank": rank, "at_s": time.time(), **values})

    def _count_failure(self, reason: str, *, is_repeated: bool) -> None:
        self._failures += 1
        if is_repeated:
            raise ServiceError(f"{reason}, twice; fix it, then {resume_hint(self._run)}")
        if self._failures > MAX_CONSECUTIVE_FAILURES:
            raise ServiceError(
                f"workers failed {self._failures} times in a row without a checkpoint in between, last: {reason}; "
                f"fix it, then {resume_hint(self._run)}"
            )


def _describe_failure(error: Exception) -> str:
    """A worker's failure in one line; for a death, the part of Ray's long text that says why."""
    death = get_cause_of_death(error)
    if death is None:
        return first_line(error)
    return next((reason for sign, reason in DEATH_REASONS.items() if sign in str(death)), first_line(death))


def _is_lost_peer(error: Exception) -> bool:
    """Whether the error says no more than that another worker died."""
    return error.lost_peer if isinstance(error, TransientError) else True


def _is_preempted(error: Exception) -> bool:
    """Whether a worker died because its node was preempted, as announced."""
    return bool(getattr(get_cause_of_death(error), "preempted", False))
