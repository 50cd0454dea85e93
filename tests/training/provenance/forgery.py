"""What an attacker can write beside a bundle: envelopes signed by any key of his own, and altered ones of others."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from training.provenance.envelope import PAYLOAD_TYPE, encode_for_signing, sign_statement
from training.provenance.keys import SigningKey


def make_key() -> SigningKey:
    """A new key, of nobody in particular."""
    return SigningKey(Ed25519PrivateKey.generate())


def write_key(file: Path, key: SigningKey) -> Path:
    file.write_text(key.public.pem)
    return file


def build_statement(digest: str, **changes: Any) -> dict[str, Any]:
    """A minimal statement of SLSA's form about a bundle."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "flowers", "digest": {"sha256": digest}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {"buildType": "urn:example:build"},
            "runDetails": {"builder": {"id": "urn:example:builder"}},
        },
        **changes,
    }


def sign(statement: dict[str, Any], key: SigningKey) -> dict[str, Any]:
    """A signed envelope, to be altered."""
    envelope: dict[str, Any] = json.loads(sign_statement(statement, key))
    return envelope


def sign_payload(payload: bytes, key: SigningKey, payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """An envelope of any payload and type, validly signed."""
    signature = key.sign(encode_for_signing(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.public.id, "sig": base64.b64encode(signature).decode()}],
    }


def alter_payload(envelope: dict[str, Any], alter: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change what is signed, and keep the signature."""
    statement = json.loads(base64.b64decode(envelope["payload"]))
    alter(statement)
    return envelope | {"payload": base64.b64encode(json.dumps(statement).encode()).decode()}


def encode(*envelopes: dict[str, Any]) -> bytes:
    """The content of a file of envelopes."""
    return "".join(json.dumps(each) + "\n" for each in envelopes).encode()
