"""Which processes are ours, and how they end.

A process is ours if `lifecycle` marked its environment, if it holds a file open in our Ray's temp dir (Ray's workers
overwrite their own environment), or if it descends from one of those. So a cluster can be stopped by any later command,
however the one that started it ended, and no other Ray on the machine is ever touched.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from training.errors import ServiceError

T = TypeVar("T")
CLUSTER_ID_VARIABLE = "SHOAL_CLUSTER_MARK"

# Most of Ray ends within a second of being asked. Raylet and its actors then wait for a GCS that is gone, for good; and
# nothing that must last is theirs alone.
TERMINATE_S, KILL_S = 1.5, 5.0


def find_owned(mark: str, temp_dir: Path) -> list[psutil.Process]:
    """Find all living processes of one cluster, this one and its ancestors left out."""
    mine = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in mine or process.pid in found:
            continue
        if _has_cluster_id(process, mark) or _uses_temp_dir(process, temp_dir):
            found[process.pid] = process
            for child in _try_read(lambda p=process: p.children(recursive=True)) or []:  # type: ignore[misc]
                found[child.pid] = child
    return [p for p in found.values() if p.pid not in mine and _is_alive(p)]


def stop_owned(mark: str, temp_dir: Path) -> int:
    """End all processes of one cluster, politely, then not; returns how many there were.

    Raises:
        Failure: some do not end; the message names them.
    """
    stopped = 0
    # What a dying process started in its last moment is met on the next round.
    for _ in range(10):
        processes = find_owned(mark, temp_dir)
        if not processes:
            break
        stopped += len(processes)
        for process in processes:
            _try_read(process.terminate)
        _, left = psutil.wait_procs(processes, timeout=TERMINATE_S)
        for process in left:
            _try_read(process.kill)
        psutil.wait_procs(left, timeout=KILL_S)
    left = find_owned(mark, temp_dir)
    if left:
        names = ", ".join(f"{process.pid} ({_try_read(process.name)}, {_try_read(process.status)})" for process in left)
        raise ServiceError(f"these processes of the cluster do not end: {names}; end them, then `shoal down` again")
    return stopped


def _has_cluster_id(process: psutil.Process, mark: str) -> bool:
    environment = _try_read(process.environ)
    return environment is not None and environment.get(CLUSTER_ID_VARIABLE) == mark


def _uses_temp_dir(process: psutil.Process, temp_dir: Path) -> bool:
    name = _try_read(lambda: process.cmdline()[0]) or ""
    # Only Ray's own are looked at so closely: reading every process's open files takes long.
    if not name.startswith("ray::"):
        return False
    files = _try_read(process.open_files) or []
    return any(Path(f.path).is_relative_to(temp_dir) for f in files)


def _is_alive(process: psutil.Process) -> bool:
    return _try_read(process.status) not in (None, psutil.STATUS_ZOMBIE)


def _try_read(read: Callable[[], T]) -> T | None:
    """Read something of a process that may be gone, or not ours to look at, by now."""
    try:
        return read()
    except (psutil.Error, OSError, IndexError):
        return None
