"""Local: where this machine's cluster listens and what its admin key is, from the files of SHOAL_HOME (~/.shoal)."""

import json
import os
from pathlib import Path

from training.errors import UserError

ADMIN_KEY_FILE = Path("secrets/admin_key")
CLUSTER_FILE = Path("run/cluster.json")


def find_base_url() -> str:
    """Return the URL of the cluster that runs on this machine, as `shoal status` prints it.

    Raises:
        UserError: none runs.
    """
    file = _home() / CLUSTER_FILE
    try:
        cluster = json.loads(file.read_text())
        return f"http://{cluster['client_host']}:{cluster['http_port']}"
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no cluster runs from {_home()}; start one with `shoal up`, or give Client('http://...', key)"
        ) from error


def read_admin_key() -> str:
    """Return this machine's admin key.

    Raises:
        UserError: there is none, or it is another user's.
    """
    file = _home() / ADMIN_KEY_FILE
    try:
        return file.read_text().strip()
    except OSError as error:
        raise UserError(
            f"no API key was given, and {file} cannot be read: {error.strerror}; give Client(key=...)"
        ) from None


def _home() -> Path:
    return Path(os.environ.get("SHOAL_HOME") or "~/.shoal").expanduser()
