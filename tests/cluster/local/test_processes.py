import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.local import processes
from training.errors import ServiceError

IGNORE_SIGTERM = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]


@pytest.fixture
def owner() -> str:
    return f"test-{os.getpid()}"


@pytest.fixture
def respawning_processes(owner: str) -> Iterator[None]:
    """New processes of the cluster start all the time, faster than they can be ended."""
    stop = threading.Event()

    def start_processes() -> None:
        while not stop.is_set():
            subprocess.Popen(
                IGNORE_SIGTERM, env=os.environ | {processes.CLUSTER_ID_VARIABLE: owner}, stdout=subprocess.DEVNULL
            )
            time.sleep(0.05)

    thread = threading.Thread(target=start_processes)
    thread.start()
    yield
    stop.set()
    thread.join()
    processes.stop_owned(owner, Path("/nowhere"))


@pytest.mark.usefixtures("respawning_processes")
def test_processes_that_do_not_end_are_named(owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_S", 0.2)
    monkeypatch.setattr(processes, "MAX_ROUNDS", 2)

    with pytest.raises(
        ServiceError, match=r"processes of the cluster do not end: \d+ \(\w+, [\w-]+\).*`shoal down` again"
    ):
        processes.stop_owned(owner, tmp_path)


def test_what_is_started_without_core_dumps_leaves_none_and_this_process_keeps_its_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)

    with processes.without_core_dumps():
        inside = subprocess.run(["sh", "-c", "sh -c 'ulimit -S -c'"], capture_output=True, text=True)

    assert inside.stdout == "0\n"
    assert resource.getrlimit(resource.RLIMIT_CORE) == before


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, owner: str) -> None:
    process = subprocess.Popen(
        IGNORE_SIGTERM, env=os.environ | {processes.CLUSTER_ID_VARIABLE: owner}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    assert processes.stop_owned(owner, tmp_path) >= 1

    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
