"""The key store keeps the digests of keys, and no key."""

import hashlib
from pathlib import Path

import pytest

from deployments.state.key_store import KeyStore, hash_key
from deployments.state.store import DeploymentStore


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'platform.db'}"


def test_a_digest_is_the_hex_sha256_of_the_key_as_the_edge_computes_it() -> None:
    assert hash_key("a key") == hashlib.sha256(b"a key").hexdigest()


def test_several_keys_of_one_caller_are_valid_until_each_is_revoked(uri: str) -> None:
    store = KeyStore(uri)
    store.add_key("first", "admin")
    store.add_key("second", "admin")
    store.add_key("third", "tester")
    assert store.list_keys() == {hash_key("first"): "admin", hash_key("second"): "admin", hash_key("third"): "tester"}

    store.revoke_key("first")
    store.revoke_key("unknown")

    assert store.list_keys() == {hash_key("second"): "admin", hash_key("third"): "tester"}


def test_setting_a_key_revokes_the_callers_others(uri: str) -> None:
    store = KeyStore(uri)
    for key in ("first", "second"):
        store.add_key(key, "admin")
    store.add_key("third", "tester")

    store.set_key("new", "admin")
    store.set_key("new", "admin")

    assert store.list_keys() == {hash_key("new"): "admin", hash_key("third"): "tester"}


def test_a_key_has_one_caller_the_last_that_it_was_given_to(uri: str) -> None:
    store = KeyStore(uri)
    store.add_key("key", "tester")
    store.add_key("key", "admin")
    assert store.list_keys() == {hash_key("key"): "admin"}

    store.set_key("key", "tester")

    assert store.list_keys() == {hash_key("key"): "tester"}


def test_keys_outlive_the_process_and_share_a_database_with_the_deployments(uri: str) -> None:
    DeploymentStore(uri)
    KeyStore(uri).add_key("key", "admin")
    DeploymentStore(uri)

    assert KeyStore(uri).list_keys() == {hash_key("key"): "admin"}


def test_no_key_is_in_the_database(uri: str, tmp_path: Path) -> None:
    KeyStore(uri).add_key("a very secret key", "admin")

    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert hash_key("a very secret key").encode() in content
    assert b"a very secret key" not in content
