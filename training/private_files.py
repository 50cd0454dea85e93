"""Private files: what only its owner may read, made once and complete, or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

from training.errors import UserError

SECRETS_FOLDER = "secrets"


def create_private(home: Path, name: str, content: str) -> None:
    """Write HOME/secrets/NAME with mode 0600, unless it exists; of several processes one wins."""
    folder = home / SECRETS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    # mkstemp makes it with mode 0600; the link appears complete or not at all, and never replaces another's.
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)
    with contextlib.suppress(FileExistsError):
        os.link(temporary, folder / name)
    Path(temporary).unlink()


def read_private(home: Path, name: str) -> str:
    """Read HOME/secrets/NAME.

    Raises:
        UserError: there is none, it is empty, or others may read it.
    """
    file = home / SECRETS_FOLDER / name
    if not file.is_file():
        raise UserError(f"no {file}; run `shoal init`, which makes it")
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file} can be read by others; run `chmod 600 {file}`")
    content = file.read_text().strip()
    if not content:
        raise UserError(f"{file} is empty; delete it and run `shoal init`")
    return content
