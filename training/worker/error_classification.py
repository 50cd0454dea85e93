"""Error classification: which errors of a worker are retried from the last checkpoint, and which end the run.

Train walk: loop.py -> [error_classification.py] -> training.run.failure_policy
A worker that dies (a machine is lost, memory runs out, its process is killed) is replaced. An error that would come
again ends the run at once, in one line: what Shoal raised, or an error in the recipe's code. What may be transient (a
connection, a file, whatever torch calls a RuntimeError) is retried, but not if it comes twice at the same step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from training.errors import ServiceError, ShoalError
from training.source_location import locate_error

# Errors that may be transient; torch raises RuntimeError where a worker's death broke a connection.
RETRYABLE_ERRORS = (OSError, RuntimeError, MemoryError, ray.exceptions.RayError)
# What gloo and NCCL put into the error of a worker whose peer died.
LOST_PEER_SIGNS = ("gloo", "NCCL", "Connection reset by peer", "Connection closed by peer")
# RuntimeErrors of torch that would come again: a mistake in the net or the recipe.
MISTAKE_SIGNS = (
    "Expected to have finished reduction",
    "Expected more than 1 value per channel",
    "shapes cannot be multiplied",
    "must match the size of tensor",
    "size mismatch",
    "but found at least two devices",
    "does not require grad",
    "expected scalar type",
    "to have the same dtype",
)


class TransientError(Exception):
    """A worker's error that may not come again.

    Attributes:
        description: one line.
        step: optimizer steps that the run had made.
        lost_peer: whether it only says that another worker died.
    """

    def __init__(self, description: str, step: int, lost_peer: bool) -> None:
        super().__init__(description, step, lost_peer)
        self.description, self.step, self.lost_peer = description, step, lost_peer

    def __str__(self) -> str:
        return f"{self.description} at step {self.step}"


@contextmanager
def classify_failures(get_step: Callable[[], int], run: str) -> Iterator[None]:
    """Convert what a worker raises within the block to an error that tells Ray Train's controller how to go on.

    Args:
        get_step: returns the optimizer steps that the run has made.
        run: its name, for the message.

    Raises:
        ShoalError: unchanged.
        TransientError: another attempt may succeed.
        ServiceError: an error in code, which would come again.
    """
    try:
        yield
    except ShoalError:
        raise
    except SystemExit as error:
        raise _make_code_error(error, get_step(), run) from error
    except RETRYABLE_ERRORS as error:
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in MISTAKE_SIGNS):
            raise _make_code_error(error, get_step(), run) from error
        lost_peer = any(sign in str(error) for sign in LOST_PEER_SIGNS)
        description = "lost the connection to another worker" if lost_peer else _describe_error(error)
        raise TransientError(description, get_step(), lost_peer) from error
    except Exception as error:
        raise _make_code_error(error, get_step(), run) from error


def _make_code_error(error: BaseException, step: int, run: str) -> ServiceError:
    return ServiceError(f"{_describe_error(error)} after step {step}; fix it, then {resume_hint(run)}")


def resume_hint(run: str) -> str:
    """Return the remedy that ends a message: how to resume a run."""
    return f"resume from its last checkpoint with `shoal train --resume {run}`"


def root_cause(error: BaseException) -> BaseException:
    """Return the error of a worker, or of Shoal, inside the errors that Ray wraps around it."""
    worker_failures = getattr(error, "worker_failures", None)
    if worker_failures:
        error = next(iter(worker_failures.values()))
    while not isinstance(error, ShoalError):
        inner = getattr(error, "controller_failure", None) or getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def first_line(error: BaseException) -> str:
    """Return an error's message, or its type where it has none, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _describe_error(error: BaseException) -> str:
    """Describe an error with the last line of the recipe's code that it passed through."""
    location = locate_error(error)
    return f"{type(error).__name__}: {first_line(error)}{location and f' ({location})'}"
