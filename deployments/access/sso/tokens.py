"""Tokens: verifies a JSON Web Token of the identity provider, and says who its caller is.

Request walk: deployments.edge.token_server -> [tokens.py] -> identity_provider.py, strict_json.py, claim_rules.py
A caller of a token is one like those of keys: nothing behind the edge tells them apart. RFC 8725 says what to refuse.
https://www.rfc-editor.org/rfc/rfc8725
"""

import base64
import binascii
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from deployments.access.caller import Caller
from deployments.access.sso.claim_rules import is_subject, name_subject
from deployments.access.sso.identity_provider import IdentityProvider
from deployments.access.sso.json_web_keys import ALGORITHMS
from deployments.access.sso.strict_json import parse_strict_json
from deployments.errors import Unauthenticated
from deployments.settings import ServingSettings

MAX_TOKEN_BYTES = 8192
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
# Of access tokens; others, like those of a logout, have types of their own.
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_MAX_KID = 256


class TokenVerifier:
    """Verifies tokens of one provider."""

    def __init__(self, settings: ServingSettings, provider: IdentityProvider) -> None:
        """Make a verifier.

        Args:
            settings: whose tokens are taken, and what they allow.
            provider: that signs them.
        """
        self._issuer, self._audience = settings.oidc_issuer, settings.oidc_audience
        self._skew_s, self._max_token_s = settings.oidc.clock_skew_s, settings.oidc.max_token_s
        self._rules, self._provider = settings.oidc.rules, provider

    async def verify(self, token: str) -> Caller:
        """Find a token's caller, who has no scopes where the claims allow nothing, and no tenant where they name none.

        Messages are fixed: they hold nothing of the token, and no character that JSON or gRPC would have to escape.

        Raises:
            Unauthenticated: it is not valid.
            Unavailable: nobody can tell, the provider does not answer.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"the token has more than {MAX_TOKEN_BYTES} bytes, the limit")
        match = _TOKEN.fullmatch(token)
        if not match:
            raise Unauthenticated("the token is no signed JSON Web Token")
        try:
            header, payload, signature = (_decode(part) for part in match.groups())
            fields = parse_strict_json(header)
        except ValueError:
            raise Unauthenticated("the token is no valid JSON Web Token") from None
        algorithm, kid = _check_header(fields)
        key = await self._provider.find_key(kid, algorithm)
        if key is None:
            raise Unauthenticated("the token is signed with no key that its provider publishes")
        if not key.verify(algorithm, token.rpartition(".")[0].encode(), signature):
            raise Unauthenticated("the signature of the token is not valid")
        # Not before: nobody's claims are read whose signature is not the provider's.
        try:
            claims = parse_strict_json(payload)
        except ValueError:
            claims = None
        if not isinstance(claims, dict):
            raise Unauthenticated("the claims of the token are no valid JSON object")
        return self._find_caller(claims)

    def _find_caller(self, claims: Mapping[str, Any]) -> Caller:
        if claims.get("iss") != self._issuer:
            raise Unauthenticated("the token is of another issuer")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise Unauthenticated("the token is for another audience; ask its provider for one of this service")
        expires_s = self._check_times(claims)
        subject = claims.get("sub")
        if not is_subject(subject):
            raise Unauthenticated("the token has no subject (sub)")
        if "cnf" in claims:
            # RFC 7800: whoever sends it has to prove that he holds a key, which is not checked here.
            raise Unauthenticated("the token is bound to a key of its caller; ask its provider for a bearer token")
        tenant = self._rules.find_tenant(claims)
        name, key_id = name_subject(self._issuer, str(subject))
        return Caller(f"{tenant}/{name}", key_id, self._rules.find_scopes(claims, tenant), expires_s)

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """Check when a token is good; returns until when it is, in seconds since the epoch."""
        now_s = time.time()
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        if not all(_is_time(value) for value in times.values()):
            raise Unauthenticated("a time of the token (exp, nbf, iat) is no number of seconds")
        if "exp" not in times:
            raise Unauthenticated("the token never expires (no exp); ask its provider for one that does")
        # Callers carry whole seconds; none may be good for longer than its token.
        expires_s = math.floor(times["exp"] + self._skew_s)
        if expires_s <= now_s:
            raise Unauthenticated("the token has expired; ask its provider for another one")
        if max(times.get("nbf", 0), times.get("iat", 0)) > now_s + self._skew_s:
            raise Unauthenticated("the token is not valid yet")
        if times["exp"] - times.get("iat", now_s) > self._max_token_s:
            raise Unauthenticated(
                f"the token is good for longer than {self._max_token_s:g} s, the limit; ask its provider for another"
            )
        return float(expires_s)


def _check_header(fields: Any) -> tuple[str, str | None]:
    """Check what a token says of itself; returns its algorithm and the name of its key.

    Nothing else counts: keys and addresses of keys (jwk, jku, x5c, x5u) that come with a token are its sender's.
    """
    if not isinstance(fields, dict):
        raise Unauthenticated("the token is no valid JSON Web Token")
    algorithm, kid, kind = fields.get("alg"), fields.get("kid"), fields.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Unauthenticated(f"the algorithm of the token is none of {', '.join(ALGORITHMS)}")
    if "crit" in fields or "b64" in fields:
        raise Unauthenticated("the token has extensions (crit, b64), and none is known here")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise Unauthenticated("the type of the token (typ) is none of an access token")
    if "kid" in fields and not (isinstance(kid, str) and 0 < len(kid) <= _MAX_KID):
        raise Unauthenticated("the key of the token (kid) is no valid name")
    return algorithm, kid


def _decode(part: str) -> bytes:
    """Decode base64url without padding (RFC 7515, 2), in the one spelling that encoders make of some bytes."""
    try:
        content = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("no base64url") from error
    if base64.urlsafe_b64encode(content).rstrip(b"=").decode() != part:
        raise ValueError("no canonical base64url")
    return content


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
