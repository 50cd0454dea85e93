"""What a replica and the ledger exchange: what was used, what comes back, what is asked for; and what is lent.

Request walk: allowances.py -> [leasing.py] -> ledger.py
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# How long a replica may use what it was lent without hearing of the ledger again.
LEASE_S = 1.0


@dataclass(frozen=True)
class Policies:
    """The limits and weights of now.

    Attributes:
        revision: of the ledger; higher with each change.
        limits: amounts by limit's name, by the subject that they are of; see `name_key` and `name_tenant`.
        weights: of the tenants whose weight is not 1.
    """

    revision: int = 0
    limits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


def name_key(key_id: str) -> str:
    """The subject that a key is."""
    return f"key:{key_id}"


def name_tenant(tenant: str) -> str:
    """The subject that a tenant is: all its keys together."""
    return f"tenant:{tenant}"


class LeaseRequest(NamedTuple):
    """What a replica tells and asks of one limit.

    Attributes:
        subject: of the limit.
        limit: its name.
        window_s: start of the window that `used` and `released` are of; 0 where nothing was lent.
        used: since the last request; it may be negative, where a request that failed gives back. Of concurrent
            requests: how many there are now.
        released: lent units that it does not hold any more, used or not.
        need: units that requests wait for.
        ahead: units that later requests will probably need.
        held: of concurrent requests: the units that it goes on to hold.
    """

    subject: str
    limit: str
    window_s: float = 0.0
    used: float = 0.0
    released: float = 0.0
    need: float = 0.0
    ahead: float = 0.0
    held: float = 0.0


class Lease(NamedTuple):
    """What the ledger lends of one limit, and how it stands.

    Attributes:
        granted: units; fewer than needed where there are no more.
        window_s: start of the window that they are of; 0 for none.
        valid_s: seconds that they may be used for.
        limit: amount.
        used: units of it that are used or lent.
        reset_s: seconds until the window ends, or until a rate or another request makes room.
        may_return: whether other replicas hold units that may come back: it is worth to ask again.
    """

    granted: float
    window_s: float
    valid_s: float
    limit: float
    used: float
    reset_s: float
    may_return: bool = False
