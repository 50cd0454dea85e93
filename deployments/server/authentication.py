"""Authentication layer: every request but a health check carries an API key.

Checked inside each replica's process, since a replica's own port accepts requests too. The layer puts the caller into
the scope for the layers within it (limits, metering). Scopes, quotas and more keys belong here.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.errors import Unauthenticated
from deployments.server.asgi import App, Receive, Scope, Send, get_header

PUBLIC_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})


@dataclass(frozen=True)
class Caller:
    """The owner of an API key."""

    name: str


class Authentication:
    """Refuses requests without a valid API key.

    `callers` maps the hex sha256 of a key to its owner. The time of a digest's lookup reveals nothing of the key, so
    no constant-time comparison is needed.
    """

    def __init__(self, app: App, callers: Mapping[str, Caller]) -> None:
        self._app, self._callers = app, callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["path"] not in PUBLIC_PATHS:
            scope["caller"] = authenticate(self._callers, get_header(scope, b"authorization"))
        await self._app(scope, receive, send)


def authenticate(callers: Mapping[str, Caller], authorization: bytes) -> Caller:
    """Return the owner of the key in an `Authorization` header, of scheme Bearer or Basic.

    Raises:
        Unauthenticated: it has no key, or an unknown one.
    """
    scheme, _, credentials = authorization.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        key = credentials.strip()
    elif scheme == b"basic":
        # A browser sends this for /docs: any user name, the key as password.
        try:
            key = base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            key = b""
    else:
        raise Unauthenticated("no API key; send the header Authorization: Bearer KEY")
    caller = callers.get(hashlib.sha256(key).hexdigest())
    if not key or caller is None:
        raise Unauthenticated("unknown API key; send a valid one in the header Authorization: Bearer KEY")
    return caller
