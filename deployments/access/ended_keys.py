"""Ended keys: what a stream that outlives its caller's key is ended by.

Request walk: deployments.control.grpc_gateway -> [ended_keys.py] -> caller.py
The edge checks a key where a request begins; a gRPC stream may go on for as long as its caller sends. The directory
tells which keys have ended.
"""

from collections.abc import Collection

from deployments.access.caller import Caller
from deployments.errors import Unauthenticated


class EndedKeys:
    """The keys that were valid and are so no longer, by their ids."""

    def __init__(self) -> None:
        self._ids: Collection[str] = frozenset()

    def follow(self, key_ids: Collection[str]) -> None:
        """Take what the directory says."""
        self._ids = key_ids

    def check(self, caller: Caller) -> None:
        """Refuse the next message of a caller whose key has ended since its stream began.

        Raises:
            Unauthenticated: it has expired, or was revoked.
        """
        caller.check_expiry()
        if caller.key_id in self._ids:
            raise Unauthenticated(f"the API key {caller.name} was revoked; send another one")
