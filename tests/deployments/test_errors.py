"""An error's way back: from the body that a caller gets to the class that it was."""

import pytest

from deployments import errors
from deployments.errors import CallError
from training.errors import ShoalError


def every_code() -> list[type[CallError]]:
    # A pipeline's StepFailed has the code of whatever failed.
    return [kind for kind in errors._iter_subclasses(errors.ClientError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_code(), ids=lambda kind: kind.code)
def test_each_code_is_raised_as_its_own_class(kind: type[CallError]) -> None:
    raised = errors.parse_error(kind.status, errors.encode_error(kind.code, "why", "r1"))

    assert type(raised).code == kind.code
    assert type(raised) is kind
    assert (str(raised), raised.message, raised.request_id, raised.status) == ("why", "why", "r1", kind.status)
    assert isinstance(raised, ShoalError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.ClientError),
        (401, errors.Unauthenticated),
        (404, errors.NotFound),
        (413, errors.PayloadTooLarge),
        (418, errors.ClientError),
        (422, errors.Unprocessable),
        (500, CallError),
        (502, CallError),
        (504, errors.DeadlineExceeded),
    ],
)
def test_a_body_without_a_code_is_told_by_its_status(status: int, kind: type[CallError]) -> None:
    for body in (b'{"error": "why"}', b"<html>why</html>", b"[]", b"\xff"):
        raised = errors.parse_error(status, body, "r2")
        assert type(raised) is kind
        assert (raised.status, raised.request_id) == (status, "r2")
