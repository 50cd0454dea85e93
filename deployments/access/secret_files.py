"""Secret files: made once, whole or not at all, and readable by their owner only."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from training.errors import UserError


def ensure_secret_file(file: Path, make: Callable[[], str]) -> None:
    """Write a new secret where there is none; of several processes that do, one wins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    if file.exists():
        return
    # mkstemp makes it with mode 0600; the link appears complete or not at all, and never replaces another's.
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with os.fdopen(descriptor, "w") as stream:
        stream.write(make())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, file)
    Path(temporary).unlink()


def read_secret_file(file: Path) -> str:
    """Read a secret.

    Raises:
        UserError: there is none, it is empty, or others may read it.
    """
    if not file.is_file():
        raise UserError(f"no {file}; run `shoal init`, which makes it")
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file} can be read by others; run `chmod 600 {file}`")
    secret = file.read_text().strip()
    if not secret:
        raise UserError(f"{file} is empty; delete it and run `shoal init`")
    return secret
