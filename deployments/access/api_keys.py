"""API keys: how one looks, and the digest that is kept of it.

`shoal_ID_SECRET`: the prefix says what it is, to secret scanners too; the id is public and stands for the key in lists,
logs and commands; the secret has 256 random bits. Only an HMAC of the whole is kept, with a key that is in no database.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.access.limits.limit import parse_limits
from deployments.access.scopes import Scope, format_scopes, parse_scopes
from training.errors import UserError
from training.private_files import read_private

PREFIX = "shoal"
ADMIN_KEY_FILE = Path("secrets") / "admin_key"
"""Below SHOAL_HOME: the key that a cluster makes for itself, which may do everything."""

PEPPER_FILE = Path("secrets") / "key_pepper"
"""Below SHOAL_HOME: the key of the HMACs, in hexadecimal. Without it a copy of the database does not tell what fits."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Of keys and tenants."""

DEFAULT_GRACE_S = 24 * 3600.0
"""How long the key before a rotation is good."""

_DURATION = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH, _SECRET_BYTES = 12, 32


def generate_id() -> str:
    """A new public id: 60 random bits."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def generate_key(key_id: str) -> str:
    """A new key of an id."""
    return f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def hash_key(key: str, pepper: str) -> str:
    """The digest that stands for a key: HMAC-SHA256 in hexadecimal, as the edge's template computes it.

    Args:
        key: as the caller sends it.
        pepper: hexadecimal.
    """
    return hmac.new(bytes.fromhex(pepper), key.encode(), hashlib.sha256).hexdigest()


def read_pepper(home: Path) -> str:
    """Read the HMACs' key.

    Raises:
        UserError: there is none yet, or others may read it.
    """
    return read_private(home, PEPPER_FILE.name)


@dataclass(frozen=True)
class ApiKey:
    """A key, without what its caller sends.

    Attributes:
        id: public.
        tenant: that owns it.
        name: unique among the tenant's keys that are not revoked.
        scopes: what it allows.
        limits: what its caller may use, by name.
        created_s: seconds since the epoch.
        created_by: who made it.
        expires_s: seconds since the epoch; None for never.
        revoked_s: seconds since the epoch; None where it is not.
    """

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    limits: Mapping[str, str] = field(default_factory=dict)
    created_s: float = 0.0
    created_by: str = ""
    expires_s: float | None = None
    revoked_s: float | None = None

    @classmethod
    def new(
        cls, tenant: str, name: str, allow: str, expires: str, created_by: str, limits: Iterable[str] = ()
    ) -> "ApiKey":
        """Make a key's record of what a person or program wrote.

        Args:
            tenant: that owns it.
            name: of the key.
            allow: scopes and roles, separated by commas.
            expires: see `parse_expiry`.
            created_by: who makes it.
            limits: see `parse_limit`.

        Raises:
            UserError: one of them is not valid.
        """
        check_name("tenant", tenant)
        check_name("key", name)
        scopes = parse_scopes(allow, tenant)
        kept = parse_limits(limits)
        return cls(generate_id(), tenant, name, scopes, kept, time.time(), created_by, parse_expiry(expires))

    @property
    def status(self) -> str:
        """active, expired or revoked."""
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.expires_s is not None and self.expires_s <= time.time() else "active"

    def describe(self) -> dict[str, Any]:
        """The key as JSON."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "name": self.name,
            "status": self.status,
            "allow": format_scopes(self.scopes),
            "limits": dict(self.limits),
            "created": format_time(self.created_s),
            "created_by": self.created_by,
            "expires": None if self.expires_s is None else format_time(self.expires_s),
            "revoked": None if self.revoked_s is None else format_time(self.revoked_s),
        }


def check_name(kind: str, name: str) -> None:
    """Check the name of a key or a tenant.

    Raises:
        UserError: it is none.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name of a {kind}; write up to 63 of a-z, 0-9, '.', '_', '-', the first no sign"
        )


def parse_expiry(text: str) -> float | None:
    """Parse when a key expires: `30d`, `12h`, `90m`, `60s` from now, a date or time of ISO 8601 (UTC), or `never`.

    Returns:
        Seconds since the epoch; None for never.

    Raises:
        UserError: it is none of them, or has passed.
    """
    if text == "never":
        return None
    now = datetime.now(UTC)
    if match := _DURATION.fullmatch(text):
        when = now + timedelta(**{_UNITS[match[2]]: int(match[1])})
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise UserError(f"{text!r} is no time; write 30d, 12h, 90m, a date as 2027-01-31, or never") from None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when <= now:
        raise UserError(f"{text!r} has passed; name a time to come")
    return when.timestamp()


def parse_grace(text: str) -> float:
    """Parse how long the key before a rotation is good: `24h`, `0s`; returns seconds.

    Raises:
        UserError: it is no duration.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise UserError(f"{text!r} is no duration; write 24h, 30m or 0s")
    return timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds()


def format_time(time_s: float) -> str:
    """Seconds since the epoch as ISO 8601, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
