"""Keys: a cluster's own Ed25519 key, with which it signs, and the public keys of others (RFC 8032).

Train walk: attest.py -> [keys.py]
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from training.errors import UserError
from training.private_files import SECRETS_FOLDER, create_private, read_private

SIGNING_KEY = "signing_key"
"""The private key's file among SHOAL_HOME's secrets: PKCS #8, PEM."""

MAX_KEY_BYTES = 4096
KEY_ID_DIGITS = 32
# Curve25519's prime. Encodings of y at or above it are not canonical.
_P = 2**255 - 19
# The y of the points whose order divides 8, for which a signature of no one may verify; x is the encoding's top bit.
# They are those of libsodium's ge25519_has_small_order less the encodings that are not canonical.
_LOW_ORDER_Y = {
    0,
    1,
    _P - 1,
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
}


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        raw: its 32 bytes.
        id: the first half of the sha256 of its DER form (SubjectPublicKeyInfo), in hex, as
            `openssl pkey -pubin -in FILE -outform DER | sha256sum` begins.
    """

    raw: bytes
    id: str

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature is this key's of a message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    @property
    def pem(self) -> str:
        """Its PEM form, as `parse_public_key` reads it."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class SigningKey:
    """A cluster's private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = _wrap(key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Sign a message."""
        return self._key.sign(message)


def ensure_signing_key(home: Path) -> SigningKey:
    """Read the cluster's signing key; make it first if there is none.

    Raises:
        UserError: it is damaged, or others may read it.
    """
    if not (home / SECRETS_FOLDER / SIGNING_KEY).exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        create_private(home, SIGNING_KEY, pem)
    return read_signing_key(home)


def read_signing_key(home: Path) -> SigningKey:
    """Read the cluster's signing key.

    Raises:
        UserError: there is none, it is damaged, or others may read it.
    """
    pem = read_private(home, SIGNING_KEY)
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        file = home / SECRETS_FOLDER / SIGNING_KEY
        raise UserError(
            f"{file} is no Ed25519 private key in PEM form; restore it, or delete it: the next publication makes a "
            "new one, which others have to trust anew"
        )
    return SigningKey(key)


def find_own_public_key(home: Path) -> PublicKey | None:
    """The public half of the cluster's signing key; None where it has none yet."""
    return read_signing_key(home).public if (home / SECRETS_FOLDER / SIGNING_KEY).exists() else None


def read_public_key(file: Path) -> PublicKey:
    """Read a public key's PEM file.

    Raises:
        UserError: it cannot be read, or is none that can be trusted.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise UserError(f"the public key {file} cannot be read: {error.strerror or error}; give a PEM file") from error
    return parse_public_key(content, str(file))


def parse_public_key(content: bytes, source: str) -> PublicKey:
    """Parse an Ed25519 public key in PEM form (SubjectPublicKeyInfo, RFC 8410).

    Args:
        content: of the file.
        source: where it comes from, for messages.

    Raises:
        UserError: it is none, or one for which signatures of no one would verify.
    """
    remedy = "give the file that `shoal trust key` prints on the cluster to trust"
    if b"PRIVATE KEY" in content:
        raise UserError(f"{source} holds a private key, which must not leave its cluster; {remedy}")
    try:
        key = load_pem_public_key(content) if len(content) <= MAX_KEY_BYTES else None
    except Exception:  # the library's own kinds, of which some are none of ValueError
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{source} is no Ed25519 public key in PEM form; {remedy}")
    public = _wrap(key)
    y = int.from_bytes(public.raw, "little") & (2**255 - 1)
    if y >= _P or y in _LOW_ORDER_Y:
        raise UserError(
            f"{source} holds a point of low order, or no canonical one: signatures by nobody would verify; {remedy}"
        )
    return public


def _wrap(key: Ed25519PublicKey) -> PublicKey:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return PublicKey(raw, hashlib.sha256(der).hexdigest()[:KEY_ID_DIGITS])
