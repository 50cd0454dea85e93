"""JSON Web Keys: the public keys that a provider publishes, of the three kinds that tokens may be signed with.

Request walk: identity_provider.py -> [json_web_keys.py] -> tokens.py
https://www.rfc-editor.org/rfc/rfc7517
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import base64_to_int

logger = logging.getLogger(__name__)

Key = RSAKey | ECKey | OKPKey

# An algorithm is of one type of key, so that no token has its key taken for another's: an HMAC's secret above all.
# https://www.rfc-editor.org/rfc/rfc8725#section-3.1
ALGORITHMS: dict[str, type[Key]] = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey, "Ed25519": OKPKey}
# EdDSA is the older name of it here: keys of Ed448 are none.
_MODELS = {"EdDSA": "Ed25519"}
_TYPES: dict[str, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_CURVES = {"EC": "P-256", "OKP": "Ed25519"}
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192
# Of private keys, of all types; `k` is a secret key's.
_PRIVATE_FIELDS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_MAX_KEYS = 100


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are verified with.

    Attributes:
        kid: its name; empty for none.
        algorithm: the only one that it is for, where the provider says so.
        key: itself.
        fingerprint: of all that counts.
    """

    kid: str
    algorithm: str
    key: Key
    fingerprint: str

    def fits(self, algorithm: str) -> bool:
        """Whether tokens with an algorithm may be signed with it."""
        same = not self.algorithm or _MODELS.get(self.algorithm, self.algorithm) == _MODELS.get(algorithm, algorithm)
        return same and isinstance(self.key, ALGORITHMS[algorithm])

    def verify(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether it has made a signature."""
        model = JWSRegistry.algorithms[_MODELS.get(algorithm, algorithm)]
        try:
            model.check_key(self.key)
            return model.verify(signed, signature, self.key)
        except (JoseError, ValueError):
            return False


@dataclass(frozen=True)
class KeySet:
    """The keys of a provider."""

    keys: tuple[PublicKey, ...] = field(default=())

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of its keys."""
        return frozenset(key.fingerprint for key in self.keys)

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The one key of a token; without a kid there must be one alone that fits."""
        found = [key for key in self.keys if (kid is None or key.kid == kid) and key.fits(algorithm)]
        return found[0] if len(found) == 1 else None


def parse_key_set(content: Any) -> KeySet:
    """Parse a JWKS. Keys that tokens may not be signed with are left out.

    Raises:
        ValueError: it is none.
    """
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError(f"the provider's keys are no JWKS of at most {_MAX_KEYS} keys")
    keys = []
    for entry in entries:
        try:
            keys.append(_parse_key(entry))
        except (JoseError, ValueError, TypeError, KeyError, OverflowError) as error:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            logger.warning("the provider's key %.100r is left out: %s", kid, error)
    return KeySet(tuple(keys))


def _parse_key(entry: Mapping[str, Any]) -> PublicKey:
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    kind, kid, algorithm = entry.get("kty"), entry.get("kid", ""), entry.get("alg", "")
    if kind not in _TYPES:
        raise ValueError(f"its type {kind!r:.50} is none of {', '.join(_TYPES)}")
    if _PRIVATE_FIELDS & entry.keys():
        # Whoever can read it can sign.
        raise ValueError("it is a private key")
    if not isinstance(kid, str):
        raise ValueError("its kid is no text")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("it is not for signatures")
    if algorithm and (algorithm not in ALGORITHMS or ALGORITHMS[algorithm] is not _TYPES[kind]):
        raise ValueError(f"its algorithm {algorithm!r:.50} is none of {', '.join(ALGORITHMS)} for its type")
    if kind in _CURVES and entry.get("crv") != _CURVES[kind]:
        raise ValueError(f"its curve {entry.get('crv')!r:.50} is not {_CURVES[kind]}")
    fields = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}[kind]
    if not all(isinstance(entry.get(name), str) for name in fields):
        raise ValueError(f"it lacks {' or '.join(fields)}")
    # Nothing else of it counts: no certificate, no URL.
    values = {name: entry[name] for name in ("kty", "crv", *fields) if name in entry}
    if kind == "RSA" and not _MIN_RSA_BITS <= (bits := base64_to_int(entry["n"]).bit_length()) <= _MAX_RSA_BITS:
        raise ValueError(f"its {bits} bits are not {_MIN_RSA_BITS} to {_MAX_RSA_BITS}")
    key: Key = _TYPES[kind].import_key(values)
    content = json.dumps([kid, algorithm, values], sort_keys=True)
    return PublicKey(kid, algorithm, key, hashlib.sha256(content.encode()).hexdigest())
