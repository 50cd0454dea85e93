"""Keys: made once, kept to their owner, and only those trusted whose signatures somebody must have made."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.training.provenance.forgery import make_key, write_key
from training.errors import UserError
from training.provenance import trust
from training.provenance.keys import SIGNING_KEY, ensure_signing_key, parse_public_key, read_signing_key

# Curve25519: its prime, the order of its base point, and d of the twisted Edwards curve (RFC 8032, 5.1).
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def multiply(n: int, a: Point) -> Point:
    result: Point = (0, 1)
    while n:
        if n & 1:
            result = add(result, a)
        a, n = add(a, a), n >> 1
    return result


def find_points_of_low_order() -> set[Point]:
    """All eight, by arithmetic: L times any point has an order that divides 8."""
    y = 2
    while True:
        y += 1
        x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(x2, (P + 3) // 8, P)
        if x * x % P != x2:
            x = x * pow(2, (P - 1) // 4, P) % P
        if x * x % P != x2:
            continue
        point = multiply(L, (x, y))
        multiples = {multiply(n, point) for n in range(8)}
        if len(multiples) == 8:
            return multiples


def encode_point(x: int, y: int) -> bytes:
    return (y | (x & 1) << 255).to_bytes(32, "little")


def encode_pem(raw: bytes) -> bytes:
    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def encode_public(key: Any) -> bytes:
    content: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return content


def test_the_signing_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = ensure_signing_key(tmp_path)

    assert ensure_signing_key(tmp_path).public == read_signing_key(tmp_path).public == first.public
    assert (tmp_path / "secrets" / SIGNING_KEY).stat().st_mode & 0o777 == 0o600
    assert trust.load_policy(tmp_path, "signed").keys == (trust.TrustedKey("this cluster", first.public),)


def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path) -> None:
    ensure_signing_key(tmp_path)
    (tmp_path / "secrets" / SIGNING_KEY).chmod(0o640)

    with pytest.raises(UserError, match="can be read by others; run `chmod 600"):
        ensure_signing_key(tmp_path)


@pytest.mark.parametrize("content", ["no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_not_replaced_silently(content: str, tmp_path: Path) -> None:
    ensure_signing_key(tmp_path)
    (tmp_path / "secrets" / SIGNING_KEY).write_text(content)

    with pytest.raises(UserError, match="is no Ed25519 private key in PEM form; restore it, or delete it"):
        ensure_signing_key(tmp_path)


def test_a_keys_id_begins_the_sha256_of_its_der_form() -> None:
    key = make_key().public

    der = bytes.fromhex("302a300506032b6570032100") + key.raw  # RFC 8410, 4
    assert hashlib.sha256(der).hexdigest().startswith(key.id)


def test_no_point_of_low_order_can_be_trusted() -> None:
    points = find_points_of_low_order()
    encodings = {encode_point(x, y) for x, y in points}
    # The sign of x = 0 is free in an encoding, and y may exceed the prime: other spellings of the same points.
    encodings |= {encode_point(1 - (x & 1), y) for x, y in points if x == 0}
    encodings |= {(y + P | sign << 255).to_bytes(32, "little") for _, y in points if y + P < 2**255 for sign in (0, 1)}

    assert len(points) == 8
    for raw in encodings:
        with pytest.raises(UserError, match="low order"):
            parse_public_key(encode_pem(raw), "evil.pem")


def test_such_a_key_would_accept_signatures_of_nobody() -> None:
    identity = (1).to_bytes(32, "little")

    # R = A = the identity and S = 0: valid for every message, by RFC 8032's equation.
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"any message")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no Ed25519 public key"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl", "is no Ed25519"),
        (b"-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n", "is no Ed25519 public key"),
        (b"-----BEGIN PRIVATE KEY-----\n...", "holds a private key, which must not leave its cluster"),
        (b"A" * 10_000_000, "is no Ed25519 public key"),
        (encode_public(rsa.generate_private_key(65537, 2048)), "is no Ed25519 public key"),
        (encode_public(ec.generate_private_key(ec.SECP256R1())), "is no Ed25519 public key"),
    ],
    ids=["empty", "ssh", "not base64", "private", "huge", "RSA", "P-256"],
)
def test_what_is_no_ed25519_public_key_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(content)

    with pytest.raises(UserError, match=message):
        trust.add_trusted_key(tmp_path, "team-a", tmp_path / "key.pem")

    assert trust.list_trusted_keys(tmp_path) == []


def test_a_key_is_trusted_by_a_name_until_it_is_removed(tmp_path: Path) -> None:
    key = make_key()
    file = write_key(tmp_path / "key.pem", key)

    trust.add_trusted_key(tmp_path, "team-a", file)

    assert trust.list_trusted_keys(tmp_path) == [trust.TrustedKey("team-a", key.public)]
    with pytest.raises(UserError, match="is trusted already, as team-a"):
        trust.add_trusted_key(tmp_path, "team-b", file)
    with pytest.raises(UserError, match="is the name of another key"):
        trust.add_trusted_key(tmp_path, "team-a", write_key(tmp_path / "other.pem", make_key()))
    with pytest.raises(UserError, match="no trusted key 'team-x'; there are: team-a"):
        trust.remove_trusted_key(tmp_path, "team-x")
    trust.remove_trusted_key(tmp_path, "team-a")
    assert trust.list_trusted_keys(tmp_path) == []


@pytest.mark.parametrize("name", ["", "../evil", ".hidden", "a/b", "this cluster", "x" * 64])
def test_a_name_cannot_lead_elsewhere(name: str, tmp_path: Path) -> None:
    file = write_key(tmp_path / "key.pem", make_key())

    with pytest.raises(UserError, match="cannot name a key"):
        trust.add_trusted_key(tmp_path, name, file)


def test_a_rule_of_files_trusts_those_and_no_others(tmp_path: Path) -> None:
    one, other, named = make_key(), make_key(), make_key()
    (tmp_path / "folder").mkdir()
    write_key(tmp_path / "folder" / "other.pem", other)
    trust.add_trusted_key(tmp_path, "named", write_key(tmp_path / "named.pem", named))

    policy = trust.load_policy(tmp_path, f"{write_key(tmp_path / 'one.pem', one)}:{tmp_path / 'folder'}")

    assert [each.key for each in policy.keys] == [one.public, other.public]
    with pytest.raises(UserError, match=r"no public key .*nothing\.pem; trust is one of any, signed, or PEM files"):
        trust.load_policy(tmp_path, str(tmp_path / "nothing.pem"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.pem file"):
        trust.load_policy(tmp_path, str(tmp_path / "empty"))
