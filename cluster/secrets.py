"""Secrets: made once, kept in SHOAL_HOME/secrets, readable by their owner alone."""

import hashlib
import os
import secrets
from pathlib import Path

from training.errors import Mistake

ADMIN_KEY, RAY_TOKEN = "admin_key", "ray_token"


def ensure(home: Path, name: str) -> str:
    """Read a secret; make it first if there is none (256 random bits)."""
    folder = home / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    file = folder / name
    try:
        # Created with its final mode: at no moment can another user open it.
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read(home, name)
    prefix = "shoal-" if name == ADMIN_KEY else ""
    with os.fdopen(handle, "w") as stream:
        stream.write(prefix + secrets.token_hex(32))
    return read(home, name)


def read(home: Path, name: str) -> str:
    """Read a secret.

    Raises:
        Mistake: there is none, or others may read it.
    """
    file = home / "secrets" / name
    if not file.is_file():
        raise Mistake(f"no {file}; run `shoal init`, which makes it")
    if file.stat().st_mode & 0o077:
        raise Mistake(f"{file} can be read by others; run `chmod 600 {file}`")
    return file.read_text().strip()


def fingerprint(key: str) -> str:
    """What a replica keeps of a key: its sha256. The keys are random, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()
