"""Who calls: every request but a health check carries a key.

Checked inside each replica's process, since a replica's own port answers too. The layer leaves the caller in the scope
for those within (limits, metering). Scopes, quotas and more keys come in here.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.errors import Unauthenticated
from deployments.server.asgi import App, Receive, Scope, Send, get_header

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})


@dataclass(frozen=True)
class Caller:
    """Who a key belongs to."""

    name: str


class Authentication:
    """Lets in who holds a key.

    `keys` maps the sha256 of a key, in hex, to its holder. Looking a digest up tells a listening clock nothing of the
    key, so no constant-time comparison is needed.
    """

    def __init__(self, app: App, keys: Mapping[str, Caller]) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["path"] not in OPEN_PATHS:
            scope["caller"] = authenticate(self._keys, get_header(scope, b"authorization"))
        await self._app(scope, receive, send)


def authenticate(keys: Mapping[str, Caller], authorization: bytes) -> Caller:
    """Who holds the key of an `Authorization` header.

    Raises:
        MissingKey: there is none, or none that is known.
    """
    scheme, _, rest = authorization.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        key = rest.strip()
    elif scheme == b"basic":
        # What a browser sends for /docs: any user name, the key as password.
        try:
            key = base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            key = b""
    else:
        raise Unauthenticated("send a key: Authorization: Bearer KEY")
    caller = keys.get(hashlib.sha256(key).hexdigest())
    if not key or caller is None:
        raise Unauthenticated("this key is not known; send a valid one: Authorization: Bearer KEY")
    return caller
