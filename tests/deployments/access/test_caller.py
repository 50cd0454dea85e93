"""The caller as the edge tells it in a header."""

import math
import time

import pytest

from deployments.access.caller import NOBODY, Caller, parse_caller
from deployments.access.scopes import Action, parse_scopes
from deployments.errors import Forbidden, Unauthenticated


def test_a_caller_is_read_as_it_is_written() -> None:
    caller = Caller("acme/ci", "abc", parse_scopes("predict:digits-*,keys", "acme"), 2e9)

    read = parse_caller(caller.encode().encode())

    assert (read.name, read.tenant, read.key_id, read.scopes, read.expires_s) == (
        "acme/ci",
        "acme",
        "abc",
        caller.scopes,
        2e9,
    )
    assert parse_caller(Caller("a/b", "c").encode().encode()).expires_s == math.inf
    assert not set(caller.encode()) & set(" \t\r\n;")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"default/admin",
        b"default/admin|admin|admin",
        b"default/admin|admin||admin|",
        b"default/admin|admin||root",
        b"default/admin|admin|soon|admin",
        b"default/admin|admin||predict:[a]",
        b"\xff|a||admin",
    ],
)
def test_a_value_that_is_none_allows_nothing(value: bytes) -> None:
    caller = parse_caller(value)

    assert caller is NOBODY
    assert not any(caller.may(action, "*") for action in Action)


def test_a_refusal_says_what_is_missing_and_what_there_is() -> None:
    caller = parse_caller(b"acme/ci|abc||predict:digits-*")

    with pytest.raises(Forbidden) as caught:
        caller.check(Action.PREDICT, "iris")

    assert caught.value.message == "the key acme/ci does not allow predict:iris; it allows predict:digits-*"
    assert caught.value.status == 403


def test_an_expired_key_is_refused_where_an_edge_still_knows_it() -> None:
    parse_caller(f"acme/ci|abc|{time.time() + 60:.0f}|admin".encode()).check_expiry()
    with pytest.raises(Unauthenticated, match="the API key acme/ci has expired"):
        parse_caller(f"acme/ci|abc|{time.time() - 1:.0f}|admin".encode()).check_expiry()


def test_decisions_are_remembered_and_bounded() -> None:
    caller = Caller("acme/ci", "abc", parse_scopes("predict:digits-*", "acme"))

    for number in range(10_000):
        assert caller.may(Action.PREDICT, f"digits-{number}")
        assert not caller.may(Action.PREDICT, f"iris-{number}")

    assert len(caller._decisions) <= 4096
