"""Local: where this machine's cluster listens and what its admin key is, from the files of SHOAL_HOME (~/.shoal).

The key is sent to that cluster only: not to another address, and not to what listens on its port when it has ended.
"""

import json
import os
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx

from deployments.access.api_keys import ADMIN_KEY_FILE
from training.errors import UserError
from training.registry.process_identity import ProcessIdentity

CLUSTER_FILE = Path("run/cluster.json")

# What RFC 6750 allows in an Authorization header.
_KEY = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)


def find_service(base_url: str | None, key: str | None) -> tuple[str, str]:
    """Find the service that a client calls and the key that it sends.

    Args:
        base_url: of the service; None for the cluster that runs on this machine, as `shoal status` prints it.
        key: the API key; None for this machine's admin key, which only its own cluster gets.

    Returns:
        The URL and the key. Where it is the admin key, the URL has the address that the cluster listens on: another
        process may listen on the same port of any other, and a name may have several.

    Raises:
        UserError: no cluster runs here, the URL is none of http or https, or there is no valid key for it. A key is
            never part of the message.
    """
    url = find_base_url() if base_url is None else _check_url(base_url)
    if key is None:
        if base_url is not None and not _is_own_cluster(url):
            raise UserError(
                f"no API key was given for {url}; give one, as in Client({url!r}, key): this machine's admin key is "
                "for the cluster that runs here"
            )
        key = read_admin_key()
        url = find_base_url() + httpx.URL(url).path.rstrip("/")
    key = key.strip()
    if not _KEY.fullmatch(key):
        raise UserError(
            f"the API key of {len(key)} characters has one that no key has; it is letters, digits and any of -._~+/="
        )
    return url, key


def find_base_url() -> str:
    """Return the URL of the cluster that runs on this machine, as `shoal status` prints it.

    Raises:
        UserError: none runs.
    """
    cluster = _read_cluster()
    if cluster is None:
        raise UserError(f"no cluster runs from {_home()}; start one with `shoal up`, or give Client('http://...', key)")
    scheme = "https" if cluster.get("tls_cert") else "http"
    return f"{scheme}://{cluster['client_host']}:{cluster['http_port']}"


def build_verification(base_url: str) -> bool | ssl.SSLContext:
    """How the certificate of a service is verified: that of this machine's own cluster must be the one in its file.

    That certificate may be of a name that this machine does not call it by, or signed by itself; it is known anyway.
    """
    if not base_url.startswith("https:") or not _is_own_cluster(base_url):
        return True
    return build_pinned_context(Path((_read_cluster() or {})["tls_cert"]))


def build_pinned_context(certificate: Path) -> ssl.SSLContext:
    """Build a context for connections that trusts one certificate, under whatever name, and no other.

    Raises:
        UserError: the file cannot be read as a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # It need not be signed by anybody.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except OSError as error:
        raise UserError(f"the certificate {certificate} cannot be read: {error.strerror or error}") from None
    return context


def read_admin_key() -> str:
    """Return this machine's admin key.

    Raises:
        UserError: there is none, or it is another user's.
    """
    file = _home() / ADMIN_KEY_FILE
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"no API key was given, and {file} cannot be read: {reason}; give Client(key=...)") from None


def _check_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UserError(f"base_url is not a URL ({error}); write https://host or http://host:port") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"base_url {_hide_password(url)!r} is not http://host:port or https://host")
    if url.userinfo:
        raise UserError(f"base_url {_hide_password(url)!r} has a user and a password; give the API key as key=")
    if url.query or url.fragment:
        raise UserError(f"base_url {base_url!r} goes on after its path; give it without ? and #")
    # Scheme and host in lower case, as httpx understands them.
    return str(url).rstrip("/")


def _hide_password(url: httpx.URL) -> str:
    return str(url.copy_with(username="", password=""))


def _is_own_cluster(base_url: str) -> bool:
    cluster = _read_cluster()
    url = httpx.URL(base_url)
    if cluster is None:
        return False
    scheme, port = ("https", 443) if cluster.get("tls_cert") else ("http", 80)
    if url.scheme != scheme or (url.port or port) != cluster["http_port"]:
        return False
    return url.host == cluster["client_host"] or (
        url.host == "localhost" and cluster["client_host"] in _resolve("localhost")
    )


def _resolve(host: str) -> set[str]:
    """The addresses of a host name."""
    try:
        return {str(address[4][0]) for address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _read_cluster() -> dict[str, Any] | None:
    """Return the record of the cluster that runs from SHOAL_HOME; None where none does."""
    try:
        cluster: dict[str, Any] = json.loads((_home() / CLUSTER_FILE).read_text())
        is_alive = ProcessIdentity.parse(cluster["head"]).is_alive()
        return cluster if is_alive and {"client_host", "http_port"} <= cluster.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _home() -> Path:
    return Path(os.environ.get("SHOAL_HOME") or "~/.shoal").expanduser()
