"""Envelopes: a signed statement in the form of DSSE, and a file of them, one a line.

https://github.com/secure-systems-lab/dsse (envelope.md, protocol.md); the file is an in-toto attestation bundle,
https://github.com/in-toto/attestation/blob/main/spec/v1/bundle.md. Knows nothing of what a statement says. Foreign keys
are ignored, as both specifications ask.
"""

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from training.errors import BundleError
from training.provenance.keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPES = MAX_SIGNATURES = 16
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class Signature:
    """One signature of an envelope.

    Attributes:
        key_id: a hint which key made it, that proves nothing; "" where it says none.
        value: the signature.
    """

    key_id: str
    value: bytes


@dataclass(frozen=True)
class Envelope:
    """A payload, its type, and its signatures; nothing of it is believed before `find_signer` has named one."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def find_signer(self, keys: Iterable[PublicKey]) -> PublicKey | None:
        """Find one of these keys that has signed the envelope; None where none has. Other signatures do not count."""
        known = list(keys)
        message = encode_for_signing(self.payload_type, self.payload)
        for signature in self.signatures:
            for key in known:
                if signature.key_id in ("", key.id) and key.verifies(signature.value, message):
                    return key
        return None


def encode_for_signing(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (PAE), which is what is signed: the type, too."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: dict[str, Any], key: SigningKey) -> str:
    """Sign a statement; returns the envelope as one line of JSON."""
    payload = json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()
    signature = key.sign(encode_for_signing(PAYLOAD_TYPE, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key.public.id, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, separators=(",", ":"))


def parse_envelopes(content: bytes, file: str) -> list[Envelope]:
    """Parse a file of envelopes.

    Raises:
        BundleError: a line is no envelope, or there are more than MAX_ENVELOPES.
    """
    lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) > MAX_ENVELOPES:
        raise BundleError(f"{file} has {len(lines)} envelopes; {MAX_ENVELOPES} is the limit: delete some of its lines")
    return [_parse_envelope(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def _parse_envelope(line: bytes, where: str) -> Envelope:
    remedy = "fetch the bundle again, or delete the line"
    try:
        values = json.loads(line)
        payload_type, entries = values["payloadType"], values["signatures"]
        if not isinstance(payload_type, str) or not isinstance(entries, list):
            raise TypeError("payloadType is a text and signatures are a list")
        if not 1 <= len(entries) <= MAX_SIGNATURES:
            raise ValueError(f"it has {len(entries)} signatures; an envelope has 1 to {MAX_SIGNATURES}")
        signatures = tuple(_parse_signature(entry) for entry in entries)
        return Envelope(payload_type, _decode_base64(values["payload"]), signatures)
    except KeyError as error:
        raise BundleError(f"{where} is no DSSE envelope: it has no {error}; {remedy}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{where} is no DSSE envelope: {reason}; {remedy}") from None


def _parse_signature(entry: Any) -> Signature:
    key_id, value = entry.get("keyid") or "", _decode_base64(entry["sig"])
    if not isinstance(key_id, str):
        raise TypeError("a keyid is a text")
    if len(value) != SIGNATURE_BYTES:
        raise ValueError(f"a signature has {len(value)} bytes; one of Ed25519 has {SIGNATURE_BYTES}")
    return Signature(key_id[:200], value)


def _decode_base64(text: Any) -> bytes:
    """Decode base64 in its standard or its URL-safe alphabet, both of which DSSE allows."""
    if not isinstance(text, str):
        raise TypeError("payload and sig are texts in base64")
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
