"""Edge check middleware: a replica takes requests from the edges alone, which have checked the caller's key.

Whoever else reaches a replica's port lacks the cluster's secret. It puts the caller's name into the ASGI scope for the
middleware within it.
"""

import hmac

from deployments.errors import NotFromEdge
from deployments.server.asgi import App, Receive, Scope, Send, get_header

SECRET_HEADER, CALLER_HEADER = b"x-shoal-edge", b"x-shoal-caller"
"""Set by the edge, and by nobody else: it deletes what a caller sent under these names."""


class EdgeCheck:
    """Refuses requests that no edge sent."""

    def __init__(self, app: App, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        check_edge_secret(get_header(scope, SECRET_HEADER), self._secret)
        scope["caller"] = get_header(scope, CALLER_HEADER).decode("latin-1")
        await self._app(scope, receive, send)


def check_edge_secret(value: bytes, secret: bytes) -> None:
    """Check what a request says to be the cluster's secret, in constant time.

    Raises:
        NotFromEdge: it is not.
    """
    if not hmac.compare_digest(value, secret):
        raise NotFromEdge("this port takes requests from Shoal's edge alone; send them to its address (`shoal status`)")
