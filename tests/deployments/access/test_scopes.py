"""Scopes: what they allow, what may be granted on, and what is no scope."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.access.scopes import ROLES, Action, Scope, format_scopes, includes_all, parse_scopes
from training.errors import UserError


@pytest.mark.parametrize(
    ("text", "action", "target", "is_allowed"),
    [
        ("predict:digits-*", Action.PREDICT, "digits-cnn", True),
        ("predict:digits-*", Action.PREDICT, "digits", False),
        ("predict:digits-*", Action.PREDICT, "my-digits-cnn", False),
        ("predict:digits", Action.PREDICT, "digits", True),
        ("predict:digits", Action.PREDICT, "digits2", False),
        ("predict:a.c", Action.PREDICT, "abc", False),
        ("predict:*-v*", Action.PREDICT, "digits-v2", True),
        ("predict", Action.PREDICT, "anything", True),
        # Who may have a model compute may see what it takes; no other action brings another along.
        ("predict:digits", Action.READ, "digits", True),
        ("read:*", Action.PREDICT, "digits", False),
        ("deploy:*", Action.PREDICT, "digits", False),
        ("train:*", Action.DEPLOY, "digits", False),
        ("keys", Action.KEYS, "acme", True),
        ("keys", Action.KEYS, "other", False),
        ("keys:*", Action.KEYS, "other", True),
        ("usage", Action.USAGE, "acme", True),
        ("audit", Action.AUDIT, "*", True),
        ("predict:*", Action.METRICS, "*", False),
        ("read:*", Action.METRICS, "*", False),
        ("metrics", Action.READ, "digits", False),
        ("admin", Action.KEYS, "other", True),
        ("developer", Action.TRAIN, "digits", True),
        ("developer", Action.KEYS, "acme", False),
    ],
)
def test_a_scope_allows_its_action_on_the_names_that_match(
    text: str, action: Action, target: str, is_allowed: bool
) -> None:
    assert any(scope.includes(action, target) for scope in parse_scopes(text, "acme")) is is_allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no scope; write ACTION:PATTERN"),
        (" , ", "names no scope"),
        ("write:*", "'write:\\*' is no scope; write one of read, predict"),
        ("PREDICT:x", "is no scope"),
        ("predict:", "'' is no pattern"),
        ("predict:Digits", "'Digits' is no pattern"),
        ("predict:a b", "'a b' is no pattern"),
        ("predict:a|b", "'a\\|b' is no pattern"),
        ("predict:a\nb", "is no pattern"),
        ("predict:[a-z]", "is no pattern"),
        ("predict:" + "a" * 64, "is no pattern"),
        ("audit:acme", "audit has no pattern; write audit"),
        ("admin:digits", "admin has no pattern"),
    ],
)
def test_what_is_no_scope_is_refused_with_what_is(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_scopes(text, "acme")


def test_scopes_are_read_as_they_are_written() -> None:
    scopes = parse_scopes("read:*, predict:digits-*,keys,predict:digits-*", "acme")

    assert format_scopes(scopes) == "keys:acme,predict:digits-*,read:*"
    assert parse_scopes(format_scopes(scopes), "another") == scopes


@pytest.mark.parametrize("role", ROLES)
def test_every_role_stands_for_scopes_that_admin_includes(role: str) -> None:
    scopes = parse_scopes(role, "acme")

    assert scopes
    assert includes_all(parse_scopes("admin", "x"), scopes)
    assert includes_all(scopes, scopes)


PATTERNS = st.text("ab*", min_size=1, max_size=5)


@given(held=PATTERNS, wanted=PATTERNS, name=st.text("ab", max_size=6))
def test_a_pattern_that_is_granted_on_never_allows_more(held: str, wanted: str, name: str) -> None:
    holder, receiver = Scope(Action.PREDICT, held), Scope(Action.PREDICT, wanted)
    # An independent reading of the pattern.
    assert receiver.includes(Action.PREDICT, name) == bool(re.match(fnmatch.translate(wanted), name))

    if includes_all([holder], [receiver]) and receiver.includes(Action.PREDICT, name):
        assert holder.includes(Action.PREDICT, name)


def test_what_allows_more_in_one_scope_is_not_granted_on() -> None:
    held = parse_scopes("predict:digits-*,read:*,keys", "acme")

    assert includes_all(held, parse_scopes("predict:digits-cnn,read:iris", "acme"))
    for more in ("predict:*", "predict:*-digits", "keys:*", "keys:other", "deploy:digits-cnn", "admin", "metrics"):
        assert not includes_all(held, parse_scopes(more, "acme")), more
