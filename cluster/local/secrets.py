"""Secrets: made once, kept in SHOAL_HOME/secrets, readable by their owner only."""

import secrets
from pathlib import Path

from training.private_files import SECRETS_FOLDER, create_private, read_private

ADMIN_KEY, RAY_TOKEN, EDGE_SECRET, KEY_PEPPER = "admin_key", "ray_token", "edge_secret", "key_pepper"
ALL_SECRETS = (ADMIN_KEY, RAY_TOKEN, EDGE_SECRET, KEY_PEPPER)


def ensure_secret(home: Path, name: str) -> str:
    """Read a secret; make it first if there is none (256 random bits)."""
    if not (home / SECRETS_FOLDER / name).exists():
        prefix = "shoal-" if name == ADMIN_KEY else ""
        create_private(home, name, prefix + secrets.token_hex(32))
    return read_secret(home, name)


def read_secret(home: Path, name: str) -> str:
    """Read a secret; raises UserError where there is none, it is empty, or others may read it."""
    return read_private(home, name)
