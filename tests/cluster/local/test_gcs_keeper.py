"""The keeper of the GCS, with processes that stand for Ray's; tests/e2e/test_edge.py has the real ones."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.local import gcs_keeper
from cluster.local.running_cluster import Cluster, _read_record, write_record
from tests.conftest import wait_until
from training.registry.process_identity import ProcessIdentity

WAIT = "import sys, time; time.sleep(60)"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """A process with the command line of a GCS, and one with that of the raylet beside it."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to(os.path.realpath(sys.executable))
    folder = f"{tmp_path}/session_1"
    with (tmp_path / "gcs.out").open("ab") as output:
        gcs = subprocess.Popen([sys.executable, "-c", WAIT, f"--session-dir={folder}"], stdout=output, stderr=output)
        head = subprocess.Popen([raylet, "-c", WAIT, "--head", f"--session_dir={folder}"])
    yield gcs, head
    for each in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in each.info["cmdline"] or ()):
            each.kill()
    gcs.wait()
    head.wait()


def find_gcs(tmp_path: Path) -> psutil.Process | None:
    for each in psutil.process_iter(["cmdline", "status"]):
        is_ours = f"--session-dir={tmp_path}/session_1" in (each.info["cmdline"] or ())
        if is_ours and each.info["status"] != psutil.STATUS_ZOMBIE:
            return each
    return None


def waits_for_a_process(pid: int) -> bool:
    files = [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()]
    return "anon_inode:[pidfd]" in files


def test_a_gcs_that_has_died_is_started_again_and_named_in_the_record(
    tmp_path: Path, session: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
) -> None:
    gcs, raylet = session
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    keeper = gcs_keeper.start_keeper(tmp_path, gcs.pid, environment)
    before, identity = ProcessIdentity.of(gcs.pid), ProcessIdentity.of(keeper)
    write_record(tmp_path, Cluster(1, 2, 3, 4, "127.0.0.1", {}, str(before), keeper=str(identity)))
    assert wait_until(lambda: waits_for_a_process(keeper), 10)

    gcs.kill()
    gcs.wait()

    cluster, is_alive = _read_record(tmp_path)
    assert is_alive
    assert cluster.head != str(before)
    successor = find_gcs(tmp_path)
    assert successor is not None
    assert ProcessIdentity.of(successor.pid) == ProcessIdentity.parse(cluster.head)

    # With the raylet its work is done: what is killed now stays dead.
    raylet.kill()
    raylet.wait()
    successor.kill()
    assert wait_until(lambda: not identity.is_alive(), 10)
    assert find_gcs(tmp_path) is None


def test_an_end_is_seen_whoever_started_the_process() -> None:
    process = subprocess.Popen(["sleep", "0.2"])
    started_s = time.monotonic()
    gcs_keeper.wait_for_end(process.pid)
    gcs_keeper.wait_for_end(process.pid)

    assert 0.1 < time.monotonic() - started_s < 10
