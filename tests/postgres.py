"""A PostgreSQL server of the tests' own: its files in a new folder, on a socket in it, and on no port."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import wait_until


def find_program(name: str) -> Path:
    """Find a program of PostgreSQL, or skip the test."""
    # Debian leaves them out of PATH.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))
    if path is None:
        pytest.skip(f"there is no {name} on this machine (Debian: apt-get install postgresql)")
    return Path(path)


@contextlib.contextmanager
def run_postgres() -> Iterator[str]:
    """Run a server with an empty cluster of databases; yields the folder of its socket."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    # pytest's own folders are closed to the user that the server runs as, and their paths too long for a socket.
    with tempfile.TemporaryDirectory(prefix="shoal-pg-") as folder:
        options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = f"{folder}/data"
        command = [initdb, "--pgdata", data, "--username=shoal", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run([*command, "--no-sync"], check=False, **options)
        assert made.returncode == 0, made.stderr
        command = [postgres, "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        options["stderr"] = subprocess.DEVNULL
        with subprocess.Popen(command, **options) as server:
            try:
                assert wait_until(lambda: can_connect(folder), 30)
                yield folder
            finally:
                server.send_signal(signal.SIGINT)  # SIGTERM would wait for open connections
                try:
                    server.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    server.kill()


def connect(folder: str, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
    """Connect to the server whose socket is in the folder."""
    return psycopg.connect(host=folder, user="shoal", dbname=database, autocommit=True)


def can_connect(folder: str) -> bool:
    try:
        connect(folder).close()
    except psycopg.OperationalError:
        return False
    return True
