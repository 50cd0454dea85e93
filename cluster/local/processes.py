"""Processes: which ones belong to a cluster, and how they end.

A process belongs to a cluster if start.py set its id in the environment, if it holds a file in the cluster's temp dir
open (Ray's workers overwrite their environment), or if it descends from one of those. So any later command can stop a
cluster however its starter ended, and no other Ray on the machine is touched.
"""

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

from training.errors import ServiceError

T = TypeVar("T")
CLUSTER_ID_VARIABLE = "SHOAL_CLUSTER_ID"

# Most of Ray ends within a second of SIGTERM. The raylet and its actors may then wait for ever for a GCS that is gone;
# no state that must last is theirs only.
TERMINATE_S, KILL_S = 1.5, 5.0
# A dying process may start another; it is found in the next round.
MAX_ROUNDS = 10


def find_owned(cluster_id: str, temp_dir: Path) -> list[psutil.Process]:
    """Find all live processes of one cluster, except this one and its ancestors."""
    excluded = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    owned: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in excluded or process.pid in owned:
            continue
        if _has_cluster_id(process, cluster_id) or _uses_temp_dir(process, temp_dir):
            owned[process.pid] = process
            for child in _try_read(lambda p=process: p.children(recursive=True)) or []:  # type: ignore[misc]
                owned[child.pid] = child
    return [p for p in owned.values() if p.pid not in excluded and _is_alive(p)]


def stop_owned(cluster_id: str, temp_dir: Path) -> int:
    """End all processes of one cluster, by SIGTERM, then by SIGKILL; returns how many there were.

    Raises:
        ServiceError: some do not end; the message names them.
    """
    stopped = 0
    for _ in range(MAX_ROUNDS):
        owned = find_owned(cluster_id, temp_dir)
        if not owned:
            break
        stopped += len(owned)
        for process in owned:
            _try_read(process.terminate)
        _, remaining = psutil.wait_procs(owned, timeout=TERMINATE_S)
        for process in remaining:
            _try_read(process.kill)
        psutil.wait_procs(remaining, timeout=KILL_S)
    remaining = find_owned(cluster_id, temp_dir)
    if remaining:
        names = ", ".join(f"{p.pid} ({_try_read(p.name)}, {_try_read(p.status)})" for p in remaining)
        raise ServiceError(f"these processes of the cluster do not end: {names}; end them, then run `shoal down` again")
    return stopped


@contextlib.contextmanager
def without_core_dumps() -> Iterator[None]:
    """Let no process that is started meanwhile, nor what it starts, leave its memory in a file when it crashes.

    A replica's has what callers sent, each process's the cluster's secrets.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _has_cluster_id(process: psutil.Process, cluster_id: str) -> bool:
    environment = _try_read(process.environ)
    return environment is not None and environment.get(CLUSTER_ID_VARIABLE) == cluster_id


def _uses_temp_dir(process: psutil.Process, temp_dir: Path) -> bool:
    name = _try_read(lambda: process.cmdline()[0]) or ""
    # Reading the open files of every process takes long; only Ray's own lose their environment.
    if not name.startswith("ray::"):
        return False
    files = _try_read(process.open_files) or []
    return any(Path(f.path).is_relative_to(temp_dir) for f in files)


def _is_alive(process: psutil.Process) -> bool:
    return _try_read(process.status) not in (None, psutil.STATUS_ZOMBIE)


def _try_read(read: Callable[[], T]) -> T | None:
    """Call a function on a process that may have ended, or belong to another user; None if so."""
    try:
        return read()
    except (psutil.Error, OSError, IndexError):
        return None
