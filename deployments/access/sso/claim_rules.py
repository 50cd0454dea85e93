"""Claim rules: which tenant and scopes the claims of a verified token stand for. What no rule names, allows nothing.

Request walk: tokens.py -> [claim_rules.py] -> deployments.access.scopes
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from deployments.access.api_keys import NAME
from deployments.access.caller import DEFAULT_TENANT
from deployments.access.scopes import Scope, parse_scopes
from training.errors import UserError

# A subject that is its caller's name as it is. No key's name has a colon, no such subject a tilde: nobody is called
# like somebody else.
_PLAIN_SUBJECT = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}", re.ASCII)
_NAME_PREFIX, _HASH_MARK = "oidc:", "~"
_ID_PREFIX, _ID_CHARACTERS = "oidc-", 11
_MAX_SUBJECT, _MAX_READABLE = 255, 40
# Messages reach callers by HAProxy's template, in JSON.
_ISSUER = re.compile(r"[A-Za-z0-9:/?#\[\]@!$&()*+,;=._~-]{1,500}", re.ASCII)


@dataclass(frozen=True)
class ClaimRules:
    """What claims are mapped to.

    Attributes:
        scopes_claim: whose values have scopes.
        scopes: by a value of it, as `parse_scopes` takes them.
        default_scopes: of tokens without any such value; empty for none.
        tenant_claim: that names the tenant; empty where all tokens are of DEFAULT_TENANT.
        tenants: by a value of it; None where the value itself is the tenant.
    """

    scopes_claim: str
    scopes: Mapping[str, str]
    default_scopes: str
    tenant_claim: str
    tenants: Mapping[str, str] | None

    @classmethod
    def parse(
        cls, scopes_claim: str, scopes: str, default_scopes: str, tenant_claim: str, tenants: str
    ) -> "ClaimRules":
        """Parse settings.

        Raises:
            UserError: one of them is not valid.
        """
        by_value = _parse_mapping("scopes", scopes)
        for allow in (*by_value.values(), *filter(None, [default_scopes])):
            parse_scopes(allow, DEFAULT_TENANT)
        by_tenant_value = _parse_mapping("tenants", tenants)
        for tenant in by_tenant_value.values():
            if not NAME.fullmatch(tenant):
                raise UserError(f"{tenant!r} is no name of a tenant; write up to 63 of a-z, 0-9, '.', '_', '-'")
        if by_tenant_value and not tenant_claim:
            raise UserError("tenants maps the values of a claim; name it in tenant_claim")
        return cls(scopes_claim, by_value, default_scopes, tenant_claim, by_tenant_value or None)

    def find_tenant(self, claims: Mapping[str, Any]) -> str:
        """The tenant of a token; empty where it names none, several, or none that is known."""
        if not self.tenant_claim:
            return DEFAULT_TENANT
        values = _list_values(claims, self.tenant_claim)
        found = set(values) if self.tenants is None else {self.tenants[each] for each in values if each in self.tenants}
        if len(found) != 1 or not NAME.fullmatch(tenant := found.pop()):
            return ""
        return tenant

    def find_scopes(self, claims: Mapping[str, Any], tenant: str) -> tuple[Scope, ...]:
        """What a token of a tenant allows; empty for nothing."""
        values = _list_values(claims, self.scopes_claim)
        words = {word for value in values for word in (value, *value.split())}
        allow = ",".join(self.scopes[word] for word in sorted(words) if word in self.scopes) or self.default_scopes
        return parse_scopes(allow, tenant) if allow and tenant else ()


def name_subject(issuer: str, subject: str) -> tuple[str, str]:
    """The name and the public id of a token's caller, as those of a key; another subject has others.

    Args:
        issuer: of the token.
        subject: its claim `sub`.
    """
    digest = hashlib.sha256(f"{issuer}\0{subject}".encode()).digest()
    identifier = base64.b32encode(digest).decode().lower()[:_ID_CHARACTERS]
    if _PLAIN_SUBJECT.fullmatch(subject):
        return _NAME_PREFIX + subject, _ID_PREFIX + identifier
    readable = re.sub(r"[^a-z0-9._@-]+", "-", subject.lower())[:_MAX_READABLE].strip("-")
    return f"{_NAME_PREFIX}{readable}{_HASH_MARK}{identifier}", _ID_PREFIX + identifier


def is_subject(value: object) -> bool:
    """Whether a claim can be a token's subject."""
    return isinstance(value, str) and 0 < len(value) <= _MAX_SUBJECT and value.isprintable()


def check_issuer(url: str) -> None:
    """Check the URL of a provider, or of its keys.

    Raises:
        ValueError: it is none, or its answers could be changed on their way.
    """
    if not _ISSUER.fullmatch(url):
        raise ValueError(f"{url[:100]!r} is no URL of a provider; write it as its tokens have it in iss")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise ValueError(f"{url[:100]!r} is no URL of a provider") from None
    if not host or parts.username is not None or parts.fragment or parts.query:
        raise ValueError(f"{url[:100]!r} is no URL of a provider; it has a host, and no user, query or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ValueError(f"{url[:100]!r} is not https; whoever is on the way could put keys of his own into it")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_mapping(setting: str, text: str) -> dict[str, str]:
    """Parse `VALUE=WORD; VALUE=WORD`; the last = of an entry counts, since values may have some."""
    mapping: dict[str, str] = {}
    for entry in filter(None, (each.strip() for each in text.split(";"))):
        value, equals, word = (part.strip() for part in entry.rpartition("="))
        if not (value and equals and word):
            raise UserError(f"{setting}: {entry!r} is no VALUE=WORD; write them as in 'ml-team=developer; ops=admin'")
        if value in mapping:
            raise UserError(f"{setting}: {value!r} is there twice; write what it stands for once")
        mapping[value] = word
    return mapping


def _list_values(claims: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a claim: that of this very name, or of a path through nested ones."""
    value: Any = claims.get(name)
    if value is None:
        value = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
