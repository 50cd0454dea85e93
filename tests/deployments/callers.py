"""Callers for tests: their keys' digests, and the header that the edge sends of them."""

from pathlib import Path

from deployments.access.api_keys import PEPPER_FILE, ApiKey, hash_key
from deployments.access.caller import Caller
from deployments.access.scopes import parse_scopes
from deployments.settings import ServingSettings
from deployments.state.key_store import KeyStore

PEPPER = "5e" * 32


def digest(key: str) -> str:
    """What the edges' map has for a key."""
    return hash_key(key, PEPPER)


def encode_caller(name: str = "default/tester", allow: str = "admin") -> str:
    """What the edge sends of a caller."""
    return Caller(name, name.partition("/")[2], parse_scopes(allow, name.partition("/")[0])).encode()


TESTER = encode_caller()
TESTER_HEADER = {"x-shoal-caller": TESTER}


def write_pepper(home: Path) -> None:
    """Make the file that a cluster makes at its start."""
    file = home / PEPPER_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(PEPPER)
    file.chmod(0o600)


def add_key(settings: ServingSettings, name: str, tenant: str = "default", allow: str = "caller") -> tuple[str, str]:
    """Make a key; returns its id and what its caller sends."""
    record = ApiKey.new(tenant, name, allow, "never", "test")
    return record.id, KeyStore.open(settings).create_key(record)
