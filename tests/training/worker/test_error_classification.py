"""What becomes of the errors that a worker raises."""

import pytest
from ray.cloudpickle import dumps, loads
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from training.errors import ServiceError, UserError
from training.worker.error_classification import TransientError, classify_failures, root_cause


def classify(error: Exception, step: int) -> Exception:
    """Return what the controller sees where a worker's code raises `error`."""
    with pytest.raises(Exception) as caught, classify_failures(lambda: step, "a-run"):  # noqa: PT011
        raise error
    return caught.value


def test_an_error_in_code_is_final_and_says_where_it_is_and_how_to_resume() -> None:
    classified = classify(KeyError("price"), 7)

    assert isinstance(classified, ServiceError)
    assert str(classified).startswith("KeyError: 'price' (test_error_classification.py, line ")
    assert str(classified).endswith(
        "after step 7; fix it, then resume from its last checkpoint with `shoal train --resume a-run`"
    )


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("odd"), MemoryError()])
def test_a_transient_error_is_no_shoal_error_and_crosses_processes(error: Exception) -> None:
    classified = loads(dumps(classify(error, 7)))

    assert isinstance(classified, TransientError)
    assert type(error).__name__ in str(classified)
    assert str(classified).endswith("at step 7")


@pytest.mark.parametrize(("text", "lost_peer"), [("[gloo/pair.cc:537] Connection reset by peer", True), ("odd", False)])
def test_an_error_that_only_says_that_a_peer_died_is_marked(text: str, lost_peer: bool) -> None:
    classified = classify(RuntimeError(text), 7)

    assert isinstance(classified, TransientError)
    assert classified.lost_peer is lost_peer


def test_an_error_of_shoal_is_not_changed() -> None:
    error = UserError("no such file")

    assert classify(error, 7) is error


def test_the_root_cause_is_inside_of_what_ray_wraps_around_it() -> None:
    error = ServiceError("the loss is not finite")
    task_error = RayTaskError("train", "traceback", error)

    assert root_cause(WorkerGroupError("workers failed", {1: task_error})) is error
    assert root_cause(ControllerError(error)) is error
    assert root_cause(error) is error
