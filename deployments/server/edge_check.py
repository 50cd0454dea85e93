"""Edge check: a replica takes requests from the edges alone, which have checked the caller's key.

Request walk: middleware.py -> [edge_check.py] -> deployments.access.caller
Whoever else reaches a replica's port lacks the cluster's secret. The caller goes into the request.
"""

import hmac

from deployments.access.caller import parse_caller
from deployments.errors import NotFromEdge
from deployments.server.request import Request

SECRET_HEADER, CALLER_HEADER = b"x-shoal-edge", b"x-shoal-caller"
"""Set by the edge, and by nobody else: it deletes what a caller sent under these names."""


class EdgeCheck:
    """Refuses requests that no edge sent."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def admit(self, request: Request) -> None:
        """Raise NotFromEdge where the cluster's secret is missing, Unauthenticated where the key has expired."""
        headers = request.headers
        check_edge_secret(headers.get(SECRET_HEADER, b""), self._secret)
        caller = request.caller = parse_caller(headers.get(CALLER_HEADER, b""))
        caller.check_expiry()

    def leave(self, request: Request) -> None:
        """Nothing is left."""


def check_edge_secret(value: bytes, secret: bytes) -> None:
    """Check what a request says to be the cluster's secret, in constant time.

    Raises:
        NotFromEdge: it is not.
    """
    if not hmac.compare_digest(value, secret):
        raise NotFromEdge("this port takes requests from Shoal's edge alone; send them to its address (`shoal status`)")
