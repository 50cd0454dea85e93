"""Caller: who sent a request, as the edge tells it in one header, and what the caller may do.

Request walk: deployments.server.edge_check -> [caller.py] -> scopes.py
The edge finds the header's value by the digest of the key; a replica parses each value once. So a key that is made,
changed or revoked at the edges is so at every replica.
"""

import math
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache

from deployments.access.scopes import Action, Scope, format_scopes, parse_scopes
from deployments.errors import Forbidden, Unauthenticated
from training.errors import UserError

SEPARATOR = "|"
"""Of the value's fields; the edge's template has it too."""

DEFAULT_TENANT, ADMIN = "default", "admin"
# A caller asks for few models; more than these are decided anew each time.
_MAX_DECISIONS = 4096


@dataclass(eq=False)
class Caller:
    """Who calls.

    Attributes:
        name: `TENANT/NAME` of the key; empty for nobody.
        key_id: public id of the key.
        scopes: what it allows.
        expires_s: seconds since the epoch; infinity for never.
        tenant: that owns the key.
    """

    name: str = ""
    key_id: str = ""
    scopes: tuple[Scope, ...] = ()
    expires_s: float = math.inf
    tenant: str = field(init=False)
    _decisions: dict[tuple[Action, str], bool] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.tenant = self.name.partition("/")[0]

    def encode(self) -> str:
        """The value of the edge's header; without spaces, as HAProxy's maps need it."""
        expires = "" if self.expires_s == math.inf else str(math.ceil(self.expires_s))
        return SEPARATOR.join((self.name, self.key_id, expires, format_scopes(self.scopes)))

    def may(self, action: Action, target: str) -> bool:
        """Whether the caller may do something with a model or tenant."""
        decision = self._decisions.get((action, target))
        if decision is None:
            decision = any(scope.includes(action, target) for scope in self.scopes)
            if len(self._decisions) < _MAX_DECISIONS:
                self._decisions[action, target] = decision
        return decision

    def check(self, action: Action, target: str = "*") -> None:
        """Refuse what the caller may not do.

        Raises:
            Forbidden: none of the key's scopes allows it; whether the target exists is not said.
        """
        if not self.may(action, target):
            scope = Scope(action, target)
            held = format_scopes(self.scopes) or "nothing"
            raise Forbidden(f"the key {self.name or 'of nobody'} does not allow {scope}; it allows {held}")

    def check_expiry(self) -> None:
        """Refuse a key that has expired.

        Raises:
            Unauthenticated: it has; edges that the directory does not reach still know it.
        """
        if self.expires_s < time.time():
            raise Unauthenticated(f"the API key {self.name} has expired; send another one")


NOBODY = Caller()
"""Who needs no key."""

CURRENT_CALLER: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""For whom a task works: calls by handles take it along, so that a pipeline's nodes know who called the pipeline."""


@lru_cache(maxsize=4096)
def parse_caller(value: bytes) -> Caller:
    """Parse the value of the edge's header; nobody may do anything whose value is none."""
    try:
        name, key_id, expires, scopes = value.decode().split(SEPARATOR)
        expires_s = float(expires) if expires else math.inf
        return Caller(name, key_id, parse_scopes(scopes, name.partition("/")[0]) if scopes else (), expires_s)
    except (ValueError, UserError):
        return NOBODY


def build_admin(key_id: str = ADMIN) -> Caller:
    """The caller of the cluster's own key."""
    return Caller(f"{DEFAULT_TENANT}/{ADMIN}", key_id, (Scope(Action.ADMIN),))
