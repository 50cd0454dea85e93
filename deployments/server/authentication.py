"""Authentication middleware: every request but a health check carries an API key.

Checked inside each replica's process, since a replica's own port accepts requests too. It puts the caller into the
ASGI scope for the middleware within it.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.errors import Unauthenticated
from deployments.server.asgi import App, Receive, Scope, Send, get_header

PUBLIC_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
# The page, what it shows, and its scripts. A browser asks a person for a password there, and from then on sends it with
# every request to this host, those of other sites' pages among them: nothing else takes credentials of that form.
BROWSER_PATHS = ("/docs", "/openapi.json", "/static-offline-docs/")
# Before Bearer's, and in a field of its own: otherwise Chromium asks for no password.
BASIC_CHALLENGE = (
    b"www-authenticate",
    b'Basic realm="shoal (any user name, the API key as password)", charset="UTF-8"',
)


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
            is_browser_path = scope["path"] in BROWSER_PATHS or scope["path"].startswith(BROWSER_PATHS[-1])
            authorization = get_header(scope, b"authorization")
            try:
                scope["caller"] = authenticate(self._callers, authorization, accept_basic=is_browser_path)
            except Unauthenticated as error:
                if is_browser_path:
                    error.headers = (BASIC_CHALLENGE, *error.headers)
                raise
        await self._app(scope, receive, send)


def authenticate(callers: Mapping[str, Caller], authorization: bytes, *, accept_basic: bool) -> Caller:
    """Return the owner of the key in an `Authorization` header.

    Args:
        callers: owners by the hex sha256 of their keys.
        authorization: the header, `Bearer KEY`.
        accept_basic: whether `Basic` with the key as the password will do, which browsers send by themselves.

    Raises:
        Unauthenticated: it has no key, an unknown one, or one in a form that does not count here.
    """
    scheme, _, credentials = authorization.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        key = credentials.strip()
    elif scheme == b"basic":
        if not accept_basic:
            raise Unauthenticated(
                "a user and a password are for the page /docs alone; send the header Authorization: Bearer KEY"
            )
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
