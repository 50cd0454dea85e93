"""Which failures of workers end a run, and which messages the driver gets about the others."""

import queue
from typing import Any

import pytest
from ray.exceptions import RayActorError

from tests.training.worker.ray_local_mode import worker_death
from training.errors import ServiceError
from training.run import failure_policy
from training.run.failure_policy import MAX_CONSECUTIVE_FAILURES, FailurePolicy
from training.worker.error_classification import TransientError

ODD = "RuntimeError: odd (recipe.py, line 3)"


def death(*, preempted: bool = False) -> Exception:
    cause = RayActorError("", "The actor is dead because its worker process has died.", False, preempted)
    return worker_death(cause)


class Run:
    """Ray Train's controller with the policy, and the messages that it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The failures of a test come without time between them.
        monkeypatch.setattr(failure_policy, "SAME_FAILURE_S", 0.0)
        self.channel: queue.Queue[dict[str, Any]] = queue.Queue()
        self.policy = FailurePolicy(self.channel, "a-run")  # type: ignore[arg-type]

    def fail(self, **errors: Exception) -> None:
        self.policy.after_exception(None, {int(rank.removeprefix("rank")): e for rank, e in errors.items()})

    def save_checkpoint(self) -> None:
        self.policy.after_report(None, [{"epoch": 1}], checkpoint=object())

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [message for message in self.channel.queue if message["kind"] == "worker_failed"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_the_same_error_twice_at_the_same_step_ends_the_run(run: Run) -> None:
    run.fail(rank0=TransientError(ODD, 7, lost_peer=False))

    with pytest.raises(ServiceError, match=r"RuntimeError: odd .* at step 7, twice"):
        run.fail(rank0=TransientError(ODD, 7, lost_peer=False))


def test_the_same_error_at_another_step_is_retried(run: Run) -> None:
    run.fail(rank0=TransientError(ODD, 7, lost_peer=False))
    run.fail(rank0=TransientError(ODD, 8, lost_peer=False))

    assert [message["rank"] for message in run.failures] == [0, 0]


def test_a_worker_that_lost_a_dead_one_is_not_blamed(run: Run) -> None:
    for _ in range(2):
        run.fail(rank0=TransientError("lost the connection to another worker", 7, lost_peer=True), rank1=death())

    assert [(m["rank"], m["reason"]) for m in run.failures] == [(1, "its process was killed, or crashed")] * 2


def test_losing_another_worker_twice_at_the_same_step_is_no_error_in_code(run: Run) -> None:
    for _ in range(2):
        run.fail(rank0=TransientError("lost the connection to another worker", 7, lost_peer=True))

    assert [m["reason"] for m in run.failures] == ["lost the connection to another worker at step 7"] * 2


def test_workers_that_fail_without_a_checkpoint_in_between_end_the_run(run: Run) -> None:
    for _ in range(MAX_CONSECUTIVE_FAILURES):
        run.fail(rank0=death())

    with pytest.raises(ServiceError, match=r"failed 4 times in a row .* `shoal train --resume a-run`"):
        run.fail(rank0=death())


def test_a_checkpoint_in_between_resets_the_count_of_failures(run: Run) -> None:
    for _ in range(3 * MAX_CONSECUTIVE_FAILURES):
        run.fail(rank0=death())
        run.save_checkpoint()

    assert len(run.failures) == 3 * MAX_CONSECUTIVE_FAILURES


def test_preempted_machines_do_not_count_as_failures(run: Run) -> None:
    for _ in range(3 * MAX_CONSECUTIVE_FAILURES):
        run.fail(rank0=death(preempted=True))

    assert len(run.failures) == 3 * MAX_CONSECUTIVE_FAILURES


def test_one_death_that_ray_reports_repeatedly_counts_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_policy, "SAME_FAILURE_S", 60.0)
    for _ in range(3 * MAX_CONSECUTIVE_FAILURES):
        run.fail(rank0=death())

    assert len(run.failures) == 1
