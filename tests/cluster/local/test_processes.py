import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.local import processes
from training.errors import ServiceError

DEAF = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]


@pytest.fixture
def mark() -> str:
    return f"test-{os.getpid()}"


@pytest.fixture
def hydra(mark: str) -> Iterator[None]:
    """For each head that is cut off another one grows."""
    enough = threading.Event()

    def grow() -> None:
        while not enough.is_set():
            subprocess.Popen(DEAF, env=os.environ | {processes.CLUSTER_ID_VARIABLE: mark}, stdout=subprocess.DEVNULL)
            time.sleep(0.05)

    growing = threading.Thread(target=grow)
    growing.start()
    yield
    enough.set()
    growing.join()
    processes.stop_owned(mark, Path("/nowhere"))


@pytest.mark.usefixtures("hydra")
def test_what_does_not_end_is_named(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_S", 0.2)
    monkeypatch.setattr(processes, "MAX_ROUNDS", 2)

    with pytest.raises(
        ServiceError, match=r"processes of the cluster do not end: \d+ \(\w+, [\w-]+\).*`shoal down` again"
    ):
        processes.stop_owned(mark, tmp_path)


def test_a_process_that_will_not_hear_is_ended_all_the_same(tmp_path: Path, mark: str) -> None:
    deaf = subprocess.Popen(
        DEAF, env=os.environ | {processes.CLUSTER_ID_VARIABLE: mark}, stdout=subprocess.PIPE, text=True
    )
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == "deaf\n"

    assert processes.stop_owned(mark, tmp_path) >= 1

    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(deaf.pid).status() == psutil.STATUS_ZOMBIE
