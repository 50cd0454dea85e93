"""Cross-site layer: what changes the platform is not done for a page of another site.

Request walk: middleware.py -> [cross_site.py] -> deployments.control.app
A browser sends requests for any page, and with them what it keeps of their host: cookies, a password. Shoal takes
neither below /api/ (the edge wants a Bearer key, which no browser adds by itself), and this is the second line: where a
browser says whose page sent a request that is no GET, it has to be a page of this service, or of an origin that
`edge.cors_origins` names. Programs say nothing of the kind, and are let through. A body needs its type, and not one of
those that a form has, which a browser sends anywhere without asking first.
https://www.w3.org/TR/fetch-metadata/, https://www.rfc-editor.org/rfc/rfc6454#section-7
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from deployments.errors import CrossSite, UnsupportedMediaType
from deployments.server.request import Request

PREFIX = "/api/"
SAFE_METHODS = ("GET", "OPTIONS")
OWN_SITES = (b"same-origin", b"none")
"""`none`: typed by the user, or opened from a bookmark."""

FORM_TYPES = (b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain")
"""https://fetch.spec.whatwg.org/#cors-safelisted-request-header"""


class CrossSiteCheck:
    """Refuses requests below /api/ that are no GET and that another site's page had a browser send."""

    def __init__(self, allowed_origins: Collection[str]) -> None:
        """Make the layer.

        Args:
            allowed_origins: whose pages may send them too.
        """
        self._allowed = frozenset(allowed_origins)

    def admit(self, request: Request) -> None:
        """Check where a request comes from.

        Raises:
            CrossSite: from a page of another origin.
            UnsupportedMediaType: its body has no type, or a form's.
        """
        if request.method in SAFE_METHODS or not request.path.startswith(PREFIX):
            return
        origin = request.get_header(b"origin").decode("latin-1")
        site = request.get_header(b"sec-fetch-site")
        if origin in self._allowed:
            return
        is_foreign = site not in OWN_SITES if site else bool(origin) and not _is_own(origin, request)
        if is_foreign:
            raise CrossSite(
                f"a page of {origin or 'another site'} may not do this; send it from a program, or name the origin in "
                "SHOAL_EDGE__CORS_ORIGINS"
            )
        _check_type(request)

    def leave(self, request: Request) -> None:
        """Nothing is left."""


def _check_type(request: Request) -> None:
    has_body = request.get_header(b"content-length") not in (b"", b"0") or request.get_header(b"transfer-encoding")
    content_type = request.get_header(b"content-type").lower()
    if has_body and (not content_type or content_type.startswith(FORM_TYPES)):
        raise UnsupportedMediaType(
            f"content type {content_type.decode('latin-1')!r} is not taken here; send application/json, or what the "
            "path names"
        )


def _is_own(origin: str, request: Request) -> bool:
    """Whether an origin's host and port are those that the request was sent to; `null` is nobody's."""
    return urlsplit(origin).netloc.lower() == request.get_header(b"host").decode("latin-1").lower() != ""
