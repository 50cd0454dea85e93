"""Audit key: the Ed25519 key that signs the audit log; its public half lies beside it, for whoever verifies.

Whoever has the private key can write a log anew. What shows that is a head that was kept elsewhere.
"""

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterable
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

KEY, PUBLIC_KEY = "audit_key", "audit_key.pub"
PUBLIC_KEY_FILE = Path(SECRETS_FOLDER) / PUBLIC_KEY
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class AuditSigner:
    """Signs heads of the log."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.id = identify_key(key.public_key())
        """Names the key in each row."""

    @classmethod
    def open(cls, home: Path) -> "AuditSigner":
        """Read the key of a SHOAL_HOME; makes it first if there is none.

        Raises:
            UserError: it is no key, or others may read it.
        """
        if not (home / SECRETS_FOLDER / KEY).exists():
            create_private(home, KEY, _make_key())
        try:
            key = load_pem_private_key(read_private(home, KEY).encode(), None)
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            file = home / SECRETS_FOLDER / KEY
            raise UserError(f"{file} is no Ed25519 key in PEM; restore it, without which no change can be made")
        signer = cls(key)
        if not (home / PUBLIC_KEY_FILE).exists():
            create_private(home, PUBLIC_KEY, signer.public_key)
        return signer

    @property
    def public_key(self) -> str:
        """The public key in PEM."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, sequence: int, hash_: str) -> str:
        """Sign a head: the hash of a row, with its number."""
        return base64.b64encode(self._key.sign(_encode_head(sequence, hash_))).decode()


class PublicKeys:
    """The keys whose signatures are trusted."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {identify_key(key): key for key in keys}

    @classmethod
    def load(cls, *files: Path) -> "PublicKeys":
        """Read PEM files, each of one key or several.

        Raises:
            UserError: one cannot be read, or holds no Ed25519 key.
        """
        keys: list[Ed25519PublicKey] = []
        for file in files:
            try:
                blocks = _PEM.findall(file.read_bytes())
            except OSError as error:
                raise UserError(f"the public key {file} cannot be read: {error.strerror}") from error
            found = []
            for block in blocks:
                with contextlib.suppress(ValueError):
                    found.append(load_pem_public_key(block))
            if not found or not all(isinstance(key, Ed25519PublicKey) for key in found):
                raise UserError(f"{file} holds no Ed25519 public key in PEM; give a copy of secrets/audit_key.pub")
            keys += [key for key in found if isinstance(key, Ed25519PublicKey)]
        return cls(keys)

    def find_problem(self, signer: object, sequence: int, hash_: str, signature: object) -> str:
        """Say what is wrong with a signature; empty where it is valid and its key is trusted."""
        key = self._keys.get(str(signer))
        if key is None:
            return f"is signed by the key {signer}, which is not trusted; give its public key with --public-key"
        try:
            content = base64.b64decode(str(signature), validate=True)
            key.verify(content, _encode_head(sequence, hash_))
        except (InvalidSignature, ValueError):
            return "has a signature that is not its signer's"
        # Bits of the last character that stand for nothing could be altered otherwise.
        is_exact = base64.b64encode(content).decode() == signature
        return "" if is_exact else "has a signature that was written in another form"


def identify_key(key: Ed25519PublicKey) -> str:
    """A short name of a public key: 64 bits of its sha256."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def _make_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _encode_head(sequence: int, hash_: str) -> bytes:
    # With a prefix of its own, so that no signature of something else is taken for one.
    return f"shoal audit head\n{sequence}\n{hash_}".encode("utf-8", "backslashreplace")
