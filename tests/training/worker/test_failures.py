import queue
from typing import Any

import pytest
from ray.cloudpickle import dumps, loads
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from training.errors import ServiceError, UserError
from training.run.failure_policy import MAX_CONSECUTIVE_FAILURES, FailurePolicy
from training.worker import failures
from training.worker.failures import TransientError


def stumbled(error: Exception, step: int) -> Exception:
    """The error that a worker's controller sees when its code raises this one."""
    with pytest.raises(Exception) as caught, failures.classify_failures(lambda: step, "a-run"):  # noqa: PT011
        raise error
    return caught.value


def death(
    *, preempted: bool = False, text: str = "The actor is dead because its worker process has died."
) -> Exception:
    return WorkerHealthCheckFailedError("A worker health check failed.", RayActorError(None, text, False, preempted))


class Run:
    """A controller's judge, and what it passes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # No waiting between failures here.
        monkeypatch.setattr(failures, "SAME_S", 0.0)
        self.inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self.judge = FailurePolicy(self.inbox, "a-run")  # type: ignore[arg-type]

    def fails(self, **errors: Exception) -> None:
        self.judge.after_exception(None, {int(rank.removeprefix("rank")): e for rank, e in errors.items()})

    def keeps_a_checkpoint(self) -> None:
        self.judge.after_report(None, [{"epoch": 1}], checkpoint=object())

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.inbox.queue if message["kind"] == kind]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_an_error_in_code_is_final_and_says_where_and_how_to_go_on() -> None:
    found = stumbled(KeyError("price"), 7)

    assert isinstance(found, ServiceError)
    assert str(found).startswith("KeyError: 'price' (test_failures.py, line ")
    assert str(found).endswith(
        "after step 7; mend it, then go on from its last checkpoint with `shoal train --resume a-run`"
    )


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("odd"), MemoryError()])
def test_an_error_that_may_pass_is_none_of_shoals_and_crosses_processes(error: Exception) -> None:
    found = loads(dumps(stumbled(error, 7)))

    assert isinstance(found, TransientError)
    assert type(error).__name__ in str(found)
    assert str(found).endswith("at step 7")


def test_what_shoal_raises_stays_as_it_is() -> None:
    error = UserError("no such file")

    assert stumbled(error, 7) is error


def test_the_same_error_twice_at_the_same_step_ends_the_run(run: Run) -> None:
    run.fails(rank0=stumbled(RuntimeError("odd"), 7))

    with pytest.raises(ServiceError, match=r"RuntimeError: odd .* at step 7, twice"):
        run.fails(rank0=stumbled(RuntimeError("odd"), 7))


def test_the_same_error_at_another_step_is_tried_again(run: Run) -> None:
    run.fails(rank0=stumbled(RuntimeError("odd"), 7))
    run.fails(rank0=stumbled(RuntimeError("odd"), 8))

    assert [message["rank"] for message in run.told("died")] == [0, 0]


def test_who_stumbles_over_a_dead_worker_is_not_blamed(run: Run) -> None:
    for _ in range(2):
        run.fails(rank0=stumbled(RuntimeError("gloo: Connection closed by peer"), 7), rank1=death())

    assert [(m["rank"], m["why"]) for m in run.told("died")] == [(1, "its process was killed, or crashed")] * 2


def test_to_lose_another_worker_twice_at_the_same_step_is_no_error_in_code(run: Run) -> None:
    for _ in range(2):
        run.fails(rank0=stumbled(RuntimeError("[gloo/pair.cc:537] Connection reset by peer"), 7))

    assert [message["why"] for message in run.told("died")] == ["it lost another worker at step 7"] * 2


def test_workers_that_fail_without_a_checkpoint_in_between_end_the_run(run: Run) -> None:
    for _ in range(MAX_CONSECUTIVE_FAILURES):
        run.fails(rank0=death())

    with pytest.raises(ServiceError, match=r"failed 4 times in a row .* `shoal train --resume a-run`"):
        run.fails(rank0=death())


def test_a_checkpoint_in_between_makes_failures_count_anew(run: Run) -> None:
    for _ in range(3 * MAX_CONSECUTIVE_FAILURES):
        run.fails(rank0=death())
        run.keeps_a_checkpoint()

    assert len(run.told("died")) == 3 * MAX_CONSECUTIVE_FAILURES


def test_machines_that_are_taken_away_as_announced_do_not_count(run: Run) -> None:
    for _ in range(3 * MAX_CONSECUTIVE_FAILURES):
        run.fails(rank0=death(preempted=True))

    assert len(run.told("died")) == 3 * MAX_CONSECUTIVE_FAILURES


def test_one_death_that_is_seen_again_and_again_counts_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "SAME_S", 60.0)
    for _ in range(3 * MAX_CONSECUTIVE_FAILURES):
        run.fails(rank0=death())

    assert len(run.told("died")) == 1
