"""GCS keeper: a process beside the head's Ray that starts the GCS again where it has died; run as a script: HOME PID.

Ray itself ends a minute after the death of its GCS. Its state is in an embedded store (ray_environment.py), so the next
one goes on where the last one was; replicas and edges do not need it meanwhile. It ends with the head's raylet.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cluster.local.processes import without_core_dumps

# What stops a cluster ends its processes within this, the GCS among the first.
SETTLE_S = 0.3
# A GCS that cannot live, as with a store that is broken, is not started for ever.
MIN_LIFE_S, MAX_SHORT_LIVES = 10.0, 5


def start_keeper(home: Path, gcs_pid: int, environment: dict[str, str]) -> int:
    """Start the keeper of a GCS, as a process of its own session; returns its process id.

    Args:
        home: SHOAL_HOME, whose record of the cluster names the GCS.
        gcs_pid: of the GCS.
        environment: of the cluster's processes.
    """
    command = [sys.executable, "-m", __name__, str(home), str(gcs_pid)]
    null = subprocess.DEVNULL
    with without_core_dumps():
        keeper = subprocess.Popen(
            command, env=environment, stdin=null, stdout=null, stderr=null, start_new_session=True
        )
    return keeper.pid


def keep(home: Path, gcs: psutil.Process) -> None:
    """Start the GCS again whenever it has ended, until the raylet beside it has ended too."""
    command, environment, folder = gcs.cmdline(), gcs.environ(), gcs.cwd()
    output = {name: Path(f"/proc/{gcs.pid}/fd/{number}").readlink() for name, number in (("stdout", 1), ("stderr", 2))}
    raylet = find_raylet(gcs)
    pid, short_lives = gcs.pid, 0
    while True:
        started_s = time.monotonic()
        wait_for_end(pid)
        time.sleep(SETTLE_S)
        short_lives = short_lives + 1 if time.monotonic() - started_s < MIN_LIFE_S else 0
        if raylet is None or not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE:
            return
        if short_lives > MAX_SHORT_LIVES:
            return
        with output["stdout"].open("ab") as stdout, output["stderr"].open("ab") as stderr:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        pid = process.pid
        # Not before it is needed: this process waits for as long as the cluster lives, and shall be small.
        from cluster.local.running_cluster import replace_head

        replace_head(home, pid)


def find_raylet(gcs: psutil.Process) -> psutil.Process | None:
    """Find the raylet that belongs to a GCS: of the same session, on the head's node."""
    (session,) = [word for word in gcs.cmdline() if word.startswith("--session-dir=")]
    folder = session.partition("=")[2]
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "raylet" and "--head" in words and any(folder in word for word in words):
            return process
    return None


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended, whoever started it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)
    # The first one is not a child of this process.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep(Path(sys.argv[1]), psutil.Process(int(sys.argv[2])))
