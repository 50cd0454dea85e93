"""Waiting for a cluster that has ended, as `shoal down` beside `shoal deploy` ends it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import secrets
from cluster.local.ports import Ports
from cluster.local.running_cluster import Cluster
from cluster.rollout.serve_api import ClusterEnded, ServeApi
from cluster.settings import Settings
from training.errors import ServiceError
from training.registry.process_identity import ProcessIdentity


@pytest.fixture
def head() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def make_serve_api(home: Path, head: "subprocess.Popen[bytes]") -> ServeApi:
    secrets.ensure_secret(home, secrets.RAY_TOKEN)
    identity = str(ProcessIdentity.of(head.pid))
    return ServeApi(Settings(home=home), Cluster(1, 2, 3, Ports().pick_free(), "127.0.0.1", {}, head=identity))


def test_a_cluster_that_ended_is_not_waited_for(tmp_path: Path, head: "subprocess.Popen[bytes]") -> None:
    statuses: list[str] = []

    def on_status(status: str) -> None:
        statuses.append(status)
        head.communicate(b"\n")

    start = time.monotonic()
    with (
        make_serve_api(tmp_path, head) as serve,
        pytest.raises(ClusterEnded, match=r"has ended meanwhile, by `shoal down` or a crash; start it with `shoal up`"),
    ):
        serve.wait(lambda applications: False, on_status, 600)
    # While it still ran, it was waited for.
    assert statuses == ["waiting for Ray Serve's status: ConnectError"]
    assert time.monotonic() - start < 10


def test_nor_is_anything_declared_to_it(tmp_path: Path, head: "subprocess.Popen[bytes]") -> None:
    with make_serve_api(tmp_path, head) as serve:
        with pytest.raises(ServiceError, match="Ray Serve does not answer"):
            serve.put_config([])
        head.communicate(b"\n")
        with pytest.raises(ClusterEnded, match="has ended meanwhile"):
            serve.put_config([])
