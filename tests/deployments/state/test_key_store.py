"""The store of API keys, on SQLite and PostgreSQL."""

import hashlib
import hmac
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.access.api_keys import ApiKey, hash_key
from deployments.access.scopes import parse_scopes
from deployments.state.key_store import KeyStore
from tests.deployments.callers import PEPPER
from tests.postgres import run_postgres
from training.errors import UserError


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with run_postgres() as folder:
        yield f"postgresql+psycopg://shoal@/postgres?host={folder}"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> KeyStore:
    uri = f"sqlite:///{tmp_path}/platform.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    return KeyStore(uri, PEPPER)


_numbers = iter(range(1000))


def make_key(name: str = "", tenant: str = "", allow: str = "predict:digits-*", expires: str = "never") -> ApiKey:
    return ApiKey.new(tenant or f"tenant-{next(_numbers)}", name or f"key-{next(_numbers)}", allow, expires, "me@here")


def list_digests(store: KeyStore, key: ApiKey, now_s: float | None = None) -> set[str]:
    values = store.load().encode_valid(time.time() if now_s is None else now_s)
    return {digest for digest, value in values.items() if value.split("|")[1] == key.id}


def test_what_is_kept_of_a_key_is_an_hmac_that_the_edge_can_compute() -> None:
    expected = hmac.new(bytes.fromhex(PEPPER), b"a key", hashlib.sha256).hexdigest()

    assert hash_key("a key", PEPPER) == expected
    assert hash_key("a key", "00" * 32) != expected


def test_a_key_is_what_it_says_and_has_256_random_bits(store: KeyStore) -> None:
    record = make_key()

    first, second = store.create_key(record), store.create_key(make_key())

    prefix, key_id, secret = first.split("_", 2)
    assert (prefix, key_id) == ("shoal", record.id)
    assert len(secret) == 43  # of base64, 6 bits each
    assert secret != second.split("_", 2)[2]


def test_no_byte_of_a_key_is_in_the_database(tmp_path: Path) -> None:
    store = KeyStore(f"sqlite:///{tmp_path}/platform.db", PEPPER)
    record = make_key()
    key = store.create_key(record)
    rotated = store.rotate_key(record.id, 60)

    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())

    for secret in (key.split("_", 2)[2], rotated.split("_", 2)[2], PEPPER):
        assert secret.encode() not in content
    assert hash_key(rotated, PEPPER).encode() in content


def test_a_key_is_valid_until_it_expires(store: KeyStore) -> None:
    record = make_key(expires="1h")
    key = store.create_key(record)

    assert list_digests(store, record) == {hash_key(key, PEPPER)}
    assert list_digests(store, record, time.time() + 3590) == {hash_key(key, PEPPER)}
    assert list_digests(store, record, time.time() + 3610) == set()


def test_a_rotated_key_is_valid_for_its_grace_and_those_before_it_are_not(store: KeyStore) -> None:
    record = make_key()
    first = store.create_key(record)
    second = store.rotate_key(record.id, 3600)
    assert list_digests(store, record) == {hash_key(first, PEPPER), hash_key(second, PEPPER)}

    third = store.rotate_key(record.id, 600)

    assert list_digests(store, record) == {hash_key(second, PEPPER), hash_key(third, PEPPER)}
    assert list_digests(store, record, time.time() + 660) == {hash_key(third, PEPPER)}
    fourth = store.rotate_key(record.id, 0)
    assert list_digests(store, record) == {hash_key(fourth, PEPPER)}


def test_a_revoked_key_is_shown_and_neither_valid_nor_changed_again(store: KeyStore) -> None:
    record = make_key()
    store.create_key(record)
    store.revoke_key(record.id)

    assert list_digests(store, record) == set()
    assert record.tenant not in {key.tenant for key in store.list_keys()}
    (shown,) = store.list_keys(record.tenant, with_revoked=True)
    assert (shown.id, shown.status) == (record.id, "revoked")
    for change in (
        lambda: store.rotate_key(record.id, 60),
        lambda: store.revoke_key(record.id),
        lambda: store.update_key(record),
    ):
        with pytest.raises(UserError, match="or it is revoked; `shoal keys list` shows them"):
            change()
    # Its name is free again.
    store.create_key(replace(make_key(tenant=record.tenant), name=record.name))


def test_two_keys_of_a_tenant_have_two_names(store: KeyStore) -> None:
    record = make_key()
    store.create_key(record)

    with pytest.raises(UserError, match=f"tenant {record.tenant} has a key {record.name!r}; choose another name"):
        store.create_key(make_key(record.name, record.tenant))
    store.create_key(make_key(record.name))


def test_a_key_is_found_by_id_by_both_names_and_by_its_own_where_one_tenant_has_it(store: KeyStore) -> None:
    record = make_key()
    store.create_key(record)

    for reference in (record.id, f"{record.tenant}/{record.name}", record.name):
        assert store.find_key(reference).id == record.id
    other = make_key(record.name)
    store.create_key(other)
    with pytest.raises(UserError, match=f"several tenants have a key {record.name!r}; name one of"):
        store.find_key(record.name)
    with pytest.raises(UserError, match="no key 'nothing'; `shoal keys list` shows them"):
        store.find_key("nothing")


def test_a_change_is_read_back_as_it_was_written(store: KeyStore) -> None:
    record = make_key(expires="1h")
    store.create_key(record)
    changed = replace(record, scopes=parse_scopes("read:a,keys", record.tenant), expires_s=None)

    store.update_key(changed)

    assert store.get_key(record.id) == changed


def test_rotations_side_by_side_leave_two_keys_each_of_which_somebody_has(store: KeyStore) -> None:
    record = make_key()
    store.create_key(record)
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(store.rotate_key(record.id, 60))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 8
    digests = list_digests(store, record)
    assert len(digests) == 2
    assert digests <= {hash_key(key, PEPPER) for key in keys}


def test_a_database_with_the_keys_of_an_earlier_version_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "platform.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE api_keys (digest TEXT PRIMARY KEY, caller TEXT, created_s FLOAT)")
        connection.execute("INSERT INTO api_keys VALUES ('d', 'admin', 1.0)")
    connection.close()

    store = KeyStore(f"sqlite:///{file}", PEPPER)

    # Its only key was the cluster's own, which is read from its file now.
    assert store.load().callers == {}
