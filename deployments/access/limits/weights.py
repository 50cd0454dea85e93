"""Weights of tenants: whose requests go first where a replica is busy.

Request walk: accounts.py -> [weights.py]
One table for a process: the queue's order and the places of requests follow it.
"""

from collections.abc import Mapping

DEFAULT_WEIGHT = 1.0

_WEIGHTS: dict[str, float] = {}


def set_weights(weights: Mapping[str, float]) -> None:
    """Take the weights of now, of the tenants that have another one than 1."""
    _WEIGHTS.clear()
    _WEIGHTS.update(weights)


def get_weight(tenant: str) -> float:
    """The weight of a tenant."""
    return _WEIGHTS.get(tenant, DEFAULT_WEIGHT)
