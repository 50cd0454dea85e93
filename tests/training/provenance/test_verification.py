"""Attacks on what lies beside a bundle: each is refused with its reason, and what is rightly signed is not."""

import base64
import json
from typing import Any

import pytest

from tests.training.provenance.forgery import (
    alter_payload,
    build_statement,
    encode,
    make_key,
    sign,
    sign_payload,
)
from training.errors import UntrustedBundleError
from training.provenance.envelope import MAX_ENVELOPES, MAX_SIGNATURES, encode_for_signing
from training.provenance.trust import TrustedKey, TrustPolicy
from training.provenance.verification import find_signer, require_trusted

DIGEST, OTHER_DIGEST = "a" * 64, "b" * 64
TRUSTED, STRANGER = make_key(), make_key()
POLICY = TrustPolicy("signed", (TrustedKey("team-a", TRUSTED.public),))
GOOD = sign(build_statement(DIGEST), TRUSTED)
BAD_SIGNATURE = {"keyid": TRUSTED.public.id, "sig": base64.b64encode(bytes(64)).decode()}


def set_builder(statement: dict[str, Any]) -> None:
    statement["predicate"]["runDetails"]["builder"]["id"] = "urn:example:somebody-else"


def set_digest(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = DIGEST


def claim_trusted(envelope: dict[str, Any]) -> dict[str, Any]:
    """Name the trusted key where another one has signed."""
    return envelope | {"signatures": [each | {"keyid": TRUSTED.public.id} for each in envelope["signatures"]]}


def test_the_encoding_is_that_of_the_specification() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, test vectors
    assert encode_for_signing("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize(
    "content",
    [
        encode(GOOD),
        encode(GOOD).replace(b"}\n", b"}"),
        # A key's id is a hint, which may be missing; both alphabets of base64 are allowed.
        encode(GOOD | {"signatures": [{"sig": GOOD["signatures"][0]["sig"]}]}),
        encode(GOOD | {"payload": GOOD["payload"].replace("+", "-").replace("/", "_")}),
        encode(GOOD | {"more": 1}),
        # One signature that counts is enough; what else is there, anybody can have added.
        encode(GOOD | {"signatures": [*sign(build_statement(DIGEST), STRANGER)["signatures"], *GOOD["signatures"]]}),
        encode(
            GOOD
            | {
                "signatures": [
                    {"keyid": TRUSTED.public.id, "sig": base64.b64encode(bytes(64)).decode()},
                    *GOOD["signatures"],
                ]
            }
        ),
        encode(sign(build_statement(DIGEST), STRANGER), GOOD),
        encode(sign(build_statement(OTHER_DIGEST), TRUSTED), GOOD),
        encode(sign_payload(b"no JSON", TRUSTED), GOOD),
    ],
    ids=[
        "plain",
        "without a last newline",
        "without a key id",
        "URL-safe",
        "a foreign key",
        "another signature before",
        "a bad signature before",
        "a stranger's envelope before",
        "another bundle's before",
        "nonsense before",
    ],
)
def test_what_a_trusted_key_has_signed_counts(content: bytes) -> None:
    assert find_signer(content, "flowers", DIGEST, POLICY) == (POLICY.keys[0], "")
    require_trusted("flowers:1", content, DIGEST, POLICY)


ATTACKS: dict[str, tuple[bytes | None, str]] = {
    "no file": (None, "it is unsigned"),
    "an empty file": (b"\n\n", "it is unsigned"),
    "an altered statement": (encode(alter_payload(GOOD, set_builder)), "signature by team-a does not match"),
    "a stranger's signature": (encode(sign(build_statement(DIGEST), STRANGER)), "by a key that is not trusted here"),
    "a stranger's in another's name": (
        encode(claim_trusted(sign(build_statement(DIGEST), STRANGER))),
        "signature by team-a does not match",
    ),
    "a stranger's without a name": (
        encode(GOOD | {"signatures": [{"sig": sign(build_statement(DIGEST), STRANGER)["signatures"][0]["sig"]}]}),
        "by a key that is not trusted here: without a name|not trusted here",
    ),
    "another bundle's": (encode(sign(build_statement(OTHER_DIGEST), TRUSTED)), "it is about another bundle"),
    "another bundle's with this digest": (
        encode(alter_payload(sign(build_statement(OTHER_DIGEST), TRUSTED), set_digest)),
        "signature by team-a does not match",
    ),
    "another bundle's signature on this statement": (
        encode(GOOD | {"signatures": sign(build_statement(OTHER_DIGEST), TRUSTED)["signatures"]}),
        "signature by team-a does not match",
    ),
    "two signatures, of which the trusted one is bad": (
        encode(GOOD | {"signatures": [BAD_SIGNATURE, *sign(build_statement(DIGEST), STRANGER)["signatures"]]}),
        "signature by team-a does not match",
    ),
    "another payload type": (
        encode(sign_payload(json.dumps(build_statement(DIGEST)).encode(), TRUSTED, "application/json")),
        "its payload is 'application/json', not application/vnd.in-toto",
    ),
    "a payload type that was changed": (encode(GOOD | {"payloadType": "text/plain"}), "its payload is 'text/plain'"),
    "no signatures": (encode(GOOD | {"signatures": []}), "it has 0 signatures; an envelope has 1 to 16"),
    "an empty signature": (encode(GOOD | {"signatures": [{"sig": ""}]}), "a signature has 0 bytes"),
    "a signature that is no text": (encode(GOOD | {"signatures": [{"sig": 1}]}), "are texts in base64"),
    "signatures that are no list": (encode(GOOD | {"signatures": "all of them"}), "signatures are a list"),
    "signatures of no kind": (encode(GOOD | {"signatures": [None]}), "is no DSSE envelope"),
    "too many signatures": (encode(GOOD | {"signatures": GOOD["signatures"] * (MAX_SIGNATURES + 1)}), "17 signatures"),
    "too many envelopes": (encode(GOOD) * (MAX_ENVELOPES + 1), "17 envelopes; 16 is the limit"),
    "no payload": (encode({"payloadType": "x", "signatures": GOOD["signatures"]}), "it has no 'payload'"),
    "a payload that is no base64": (encode(GOOD | {"payload": "%%%"}), "not base64"),
    "no JSON": (b"\xff\xfe", "is no DSSE envelope"),
    "JSON that is deep": (b"[" * 100_000, "is no DSSE envelope"),
    "a list": (b"[]", "is no DSSE envelope"),
    "a statement of another type": (
        encode(sign(build_statement(DIGEST, _type="https://in-toto.io/Statement/v0.1"), TRUSTED)),
        "its payload is no in-toto statement",
    ),
    "a statement without a subject": (
        encode(sign(build_statement(DIGEST, subject=[]), TRUSTED)),
        "its payload is no in-toto statement",
    ),
    "a digest of another algorithm": (
        encode(sign(build_statement(DIGEST, subject=[{"name": "flowers", "digest": {"sha512": DIGEST}}]), TRUSTED)),
        "it is about another bundle",
    ),
    "another model's": (
        encode(sign(build_statement(DIGEST, subject=[{"name": "roses", "digest": {"sha256": DIGEST}}]), TRUSTED)),
        "it is about another bundle: its subject is 'roses'",
    ),
    "a digest that is cut off": (
        encode(sign(build_statement(DIGEST[:32]), TRUSTED)),
        "it is about another bundle",
    ),
    "a statement that says nothing of origin": (
        encode(sign(build_statement(DIGEST, predicateType="https://spdx.dev/Document"), TRUSTED)),
        "says nothing of origin",
    ),
    "a predicate without a builder": (
        encode(sign(build_statement(DIGEST, predicate={"buildDefinition": {"buildType": "x"}}), TRUSTED)),
        "its predicate is not https://slsa.dev/provenance/v1: runDetails",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_with_its_reason(attack: str) -> None:
    content, reason = ATTACKS[attack]

    with pytest.raises(
        UntrustedBundleError, match=f"^flowers:1 may not be deployed where trust is 'signed': .*({reason})"
    ) as refusal:
        require_trusted("flowers:1", content, DIGEST, POLICY)

    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_without_a_rule_nothing_is_even_read() -> None:
    require_trusted("flowers:1", b"nonsense", DIGEST, TrustPolicy("any", ()))


def test_a_policy_without_keys_trusts_nobody() -> None:
    with pytest.raises(UntrustedBundleError, match="not trusted here"):
        require_trusted("flowers:1", encode(GOOD), DIGEST, TrustPolicy("signed", ()))
