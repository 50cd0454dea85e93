"""Secrets: made once, kept in SHOAL_HOME/secrets, readable by their owner only."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from training.errors import UserError

ADMIN_KEY, RAY_TOKEN, EDGE_SECRET, KEY_PEPPER = "admin_key", "ray_token", "edge_secret", "key_pepper"
ALL_SECRETS = (ADMIN_KEY, RAY_TOKEN, EDGE_SECRET, KEY_PEPPER)


def ensure_secret(home: Path, name: str) -> str:
    """Read a secret; make it first if there is none (256 random bits)."""
    folder = home / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    file = folder / name
    if not file.exists():
        prefix = "shoal-" if name == ADMIN_KEY else ""
        # mkstemp makes it with mode 0600; the link appears complete or not at all, and never replaces another's.
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
        with os.fdopen(descriptor, "w") as stream:
            stream.write(prefix + secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
        Path(temporary).unlink()
    return read_secret(home, name)


def read_secret(home: Path, name: str) -> str:
    """Read a secret.

    Raises:
        UserError: there is none, it is empty, or others may read it.
    """
    file = home / "secrets" / name
    if not file.is_file():
        raise UserError(f"no {file}; run `shoal init`, which makes it")
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file} can be read by others; run `chmod 600 {file}`")
    secret = file.read_text().strip()
    if not secret:
        raise UserError(f"{file} is empty; delete it and run `shoal init`")
    return secret
