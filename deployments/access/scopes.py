"""Scopes: what an API key allows, as `ACTION:PATTERN`, and what each path asks for.

Request walk: caller.py -> [scopes.py]
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from training.errors import UserError

ANY = "*"


class Action(StrEnum):
    """What a caller does."""

    READ = "read"
    """See a model in the catalog: status, metadata, example."""
    PREDICT = "predict"
    """Have a model compute; includes reading it."""
    DEPLOY = "deploy"
    """Change which version of a model serves; includes reading it."""
    TRAIN = "train"
    """Train and publish a model; includes reading it."""
    KEYS = "keys"
    """Manage the keys of a tenant."""
    USAGE = "usage"
    """See what a tenant has used."""
    AUDIT = "audit"
    """See the audit log."""
    METRICS = "metrics"
    """Scrape a node's metrics, which name every model."""
    ADMIN = "admin"
    """Everything."""


TENANT_ACTIONS = frozenset((Action.KEYS, Action.USAGE))
"""Their patterns are of tenants; without one, the key's own is meant."""
GLOBAL_ACTIONS = frozenset((Action.AUDIT, Action.METRICS, Action.ADMIN))
"""They take no pattern."""
_INCLUDE_READ = frozenset((Action.PREDICT, Action.DEPLOY, Action.TRAIN))

ROLES: dict[str, str] = {
    "viewer": "read:*",
    "caller": "predict:*",
    "developer": "predict:*,train:*,deploy:*",
    "manager": "predict:*,train:*,deploy:*,keys,usage",
    "auditor": "read:*,audit,usage:*",
    "monitor": "metrics",
    "admin": "admin",
}
"""Scopes by the name of a role; in `--allow` a role's name stands for them."""

LEAST = "read:*"
"""What a key allows that was made without a word of it: nothing is computed or changed with it."""

_ACTIONS = {action.value: action for action in Action}
_PATTERN = re.compile(r"[a-z0-9*][a-z0-9._*-]{0,62}")


@dataclass(frozen=True, order=True)
class Scope:
    """One action on the models or tenants whose names match.

    Attributes:
        action: what is allowed.
        pattern: of names, in which * stands for any characters; * for actions that have none.
    """

    action: Action
    pattern: str = ANY

    def __str__(self) -> str:
        return self.action.value if self.action in GLOBAL_ACTIONS else f"{self.action}:{self.pattern}"

    def includes(self, action: Action, target: str) -> bool:
        """Whether it allows an action on a name, or on all names that a pattern matches."""
        if self.action is Action.ADMIN:
            return True
        is_same = self.action is action or (action is Action.READ and self.action in _INCLUDE_READ)
        return is_same and _compile(self.pattern).match(target) is not None


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    # A * in the target is matched by a * alone: what a pattern includes is then included for every name.
    parts = re.sub(r"\*+", ANY, pattern).split(ANY)
    return re.compile("^" + ".*".join(map(re.escape, parts)) + r"\Z", re.DOTALL)


def includes_all(held: Iterable[Scope], wanted: Iterable[Scope]) -> bool:
    """Whether the wanted scopes allow nothing that the held ones do not."""
    held = tuple(held)
    return all(any(each.includes(scope.action, scope.pattern) for each in held) for scope in wanted)


def parse_scopes(text: str, tenant: str) -> tuple[Scope, ...]:
    """Parse scopes and roles, separated by commas; sorted, each once.

    Args:
        text: as `predict:digits-*,read:*` or `developer`.
        tenant: of the key; `keys` and `usage` without a pattern mean it.

    Raises:
        UserError: one of them is none.
    """
    scopes = set()
    for item in filter(None, (each.strip() for each in text.split(","))):
        for part in ROLES.get(item, item).split(","):
            scopes.add(_parse_scope(part, tenant))
    if not scopes:
        raise UserError(f"{text!r} names no scope; write ACTION:PATTERN as in {LEAST}, or a role: {', '.join(ROLES)}")
    return tuple(sorted(scopes))


def _parse_scope(text: str, tenant: str) -> Scope:
    name, colon, pattern = text.partition(":")
    if name not in _ACTIONS:
        raise UserError(
            f"{text!r} is no scope; write one of {', '.join(_ACTIONS)} with a pattern of names, as in "
            f"predict:digits-*, or a role: {', '.join(ROLES)}"
        )
    action = _ACTIONS[name]
    if action in GLOBAL_ACTIONS:
        if colon and pattern != ANY:
            raise UserError(f"{text!r}: {action} has no pattern; write {action}")
        return Scope(action)
    if not colon:
        return Scope(action, tenant if action in TENANT_ACTIONS else ANY)
    if not _PATTERN.fullmatch(pattern):
        raise UserError(
            f"{text!r}: {pattern!r} is no pattern; write a name of a-z, 0-9, '.', '_' and '-', where * stands for any "
            "characters"
        )
    return Scope(action, pattern)


def format_scopes(scopes: Iterable[Scope]) -> str:
    """Scopes as `parse_scopes` takes them."""
    return ",".join(map(str, scopes))
