"""Errors: one code per class, and an error body is decoded into the class that it was encoded from."""

import re

import pytest

from deployments import errors
from deployments.errors import ERRORS_BY_CODE, NO_STATUS, CallError, ClientError
from training.errors import ShoalError

CLIENT_ERRORS = [error for error in ERRORS_BY_CODE.values() if issubclass(error, ClientError)]
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CallError)]


@pytest.mark.parametrize("error_class", CLIENT_ERRORS, ids=lambda error_class: error_class.code)
def test_each_code_is_raised_as_its_own_class(error_class: type[CallError]) -> None:
    error = errors.parse_error(error_class.status, errors.encode_error(error_class.code, "why", "r1"))

    assert type(error).code == error_class.code
    assert type(error) is error_class
    assert (str(error), error.message, error.request_id, error.status) == ("why", "why", "r1", error_class.status)
    assert isinstance(error, ShoalError)


def test_the_table_has_every_error_class_of_the_module() -> None:
    assert set(ERRORS_BY_CODE.values()) == {error for error in CLASSES if error.status != NO_STATUS}


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda error_class: error_class.code)
def test_a_code_is_its_class_name_in_snake_case(error_class: type[CallError]) -> None:
    # The base classes stand for errors that have no class of their own.
    base_codes = {CallError: "internal", ClientError: "bad_request"}
    snake_case = re.sub(r"(?<!^)(?=[A-Z])", "_", error_class.__name__).lower()

    assert error_class.code == base_codes.get(error_class, snake_case)


@pytest.mark.parametrize(
    ("status", "error_class"),
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
def test_a_body_without_a_code_gets_the_class_of_its_status(status: int, error_class: type[CallError]) -> None:
    for body in (b'{"error": "why"}', b"<html>why</html>", b"[]", b"\xff"):
        error = errors.parse_error(status, body, "r2")
        assert type(error) is error_class
        assert (error.status, error.request_id) == (status, "r2")
