import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import processes
from training.errors import Failure

# Each generation ends by itself, and has left another behind.
HYDRA = """#!/bin/sh
trap '' TERM
sleep 0.3
[ -e "$1" ] || "$0" "$1" &
"""


@pytest.fixture
def mark() -> str:
    return f"test-{os.getpid()}"


@pytest.fixture
def hydra(tmp_path: Path, mark: str) -> Iterator[Path]:
    script, enough = tmp_path / "hydra", tmp_path / "enough"
    script.write_text(HYDRA)
    script.chmod(0o700)
    subprocess.run([script, enough], env=os.environ | {processes.MARK: mark}, check=True)
    yield enough
    enough.touch()
    until_s = time.monotonic() + 10
    while processes.owned(mark, tmp_path):
        assert time.monotonic() < until_s
        time.sleep(0.1)


def test_what_does_not_end_is_named(hydra: Path, mark: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"processes of the cluster do not end: \d+ \(\w+, [\w-]+\).*`shoal down` again"):
        processes.stop(mark, tmp_path)


def test_a_process_that_will_not_hear_is_ended_all_the_same(tmp_path: Path, mark: str) -> None:
    environment = os.environ | {processes.MARK: mark}
    deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], env=environment)

    assert processes.stop(mark, tmp_path) >= 1
    assert deaf.wait(10) == -9
    assert not [p for p in psutil.process_iter() if p.pid == deaf.pid]
