"""Which keys the directory tells the edges: in force at once, until they expire, and without a database for a time."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.access.api_keys import ADMIN_KEY_FILE
from deployments.access.scopes import parse_scopes
from deployments.edge.directory import Directory
from deployments.edge.state import GRPC, Member, Route
from deployments.state.key_store import KeyStore
from tests.deployments.callers import add_key, digest
from tests.deployments.edge.local_directory import run_directory, run_edges, wait_for_state

pytestmark = pytest.mark.anyio
FIRST = Member("replica-1", Route("flowers", 30.0), "127.0.0.1:1")


async def test_keys_are_in_force_without_anybodys_word(directory: Directory) -> None:
    store = KeyStore.open(directory._settings)
    async with run_edges(directory, 0.0) as (edge,):
        key_id, key = add_key(directory._settings, "tester", "acme", "predict:digits-*")
        value = f"acme/tester|{key_id}||predict:digits-*"
        await wait_for_state(edge, lambda state: state.keys == {digest(key): value})

        new_key = store.rotate_key(key_id, 0.0)
        await wait_for_state(edge, lambda state: state.keys == {digest(new_key): value})
        store.update_key(replace(store.find_key("tester"), scopes=parse_scopes("audit", "acme")))
        state = await wait_for_state(edge, lambda state: state.keys != {digest(new_key): value})
        assert state.keys == {digest(new_key): f"acme/tester|{key_id}||audit"}
        gateway = Member("gateway", Route(GRPC, 30.0), "127.0.0.1:2", protocol="grpc")
        assert (await directory.renew(gateway)).ended_keys == frozenset()
        store.revoke_key(key_id)
        await wait_for_state(edge, lambda state: not state.keys)
        assert (await directory.renew(gateway)).ended_keys == {key_id}
        assert (await directory.renew(FIRST)).ended_keys == frozenset()


async def test_a_key_that_expires_is_out_without_anybodys_word(directory: Directory) -> None:
    store = KeyStore.open(directory._settings)
    async with run_edges(directory, 0.0) as (edge,):
        key_id, key = add_key(directory._settings, "tester")
        await wait_for_state(edge, lambda state: digest(key) in state.keys)

        store.update_key(replace(store.find_key(key_id), expires_s=time.time() + 0.5))
        state = await wait_for_state(edge, lambda state: not state.keys)

        assert edge.states[-2].keys[digest(key)].split("|")[2] != ""
        assert state.keys == {}


async def test_the_clusters_own_key_is_its_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ADMIN_KEY_FILE).write_text("first\n")
    value = "default/admin|admin||admin"
    async with run_directory() as directory, run_edges(directory, 0.0) as (edge,):
        assert edge.states[-1].keys == {digest("first"): value}
        (home / ADMIN_KEY_FILE).write_text("second\n")
        await wait_for_state(edge, lambda state: state.keys == {digest("second"): value})

    monkeypatch.setenv("SHOAL_ACCESS__ADMIN_KEY", "false")
    async with run_directory() as directory, run_edges(directory, 0.0) as (edge,):
        assert edge.states[-1].keys == {}


async def test_a_database_that_does_not_answer_changes_nothing(directory: Directory, home: Path) -> None:
    key_id, key = add_key(directory._settings, "tester")
    file, hidden = home / "platform.db", home / "hidden.db"
    async with run_edges(directory, 0.0) as (edge,):
        await wait_for_state(edge, lambda state: state.keys)

        file.rename(hidden)
        file.mkdir()
        directory._keys._store._engine.dispose()
        await directory.join(FIRST)
        await asyncio.sleep(0.2)
        assert edge.states[-1].keys.keys() == {digest(key)}
        assert edge.members == (FIRST,)
        file.rmdir()
        hidden.rename(file)
        KeyStore.open(directory._settings).revoke_key(key_id)
        await wait_for_state(edge, lambda state: not state.keys)


async def test_callers_of_a_lost_database_go_on_for_a_bounded_time_and_no_longer_than_their_keys(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_ACCESS__MAX_DATABASE_OUTAGE_S", "2")
    (home / ADMIN_KEY_FILE).write_text("own")
    async with run_directory() as directory, run_edges(directory, 0.0) as (edge,):
        store = KeyStore.open(directory._settings)
        key_id, key = add_key(directory._settings, "expiring")
        _, other = add_key(directory._settings, "other")
        store.update_key(replace(store.find_key(key_id), expires_s=time.time() + 1))
        await wait_for_state(edge, lambda state: len(state.keys) == 3 and f"|{key_id}|1" in state.keys[digest(key)])

        lost_s = time.monotonic()
        (home / "platform.db").rename(home / "lost.db")
        (home / "platform.db").mkdir()
        directory._keys._store._engine.dispose()
        await wait_for_state(edge, lambda state: state.keys.keys() == {digest(other), digest("own")})
        assert time.monotonic() - lost_s < 1.6
        await wait_for_state(edge, lambda state: state.keys.keys() == {digest("own")})
        assert time.monotonic() - lost_s > 1.9
