"""The record of a cluster, and whether what it names still runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import processes
from cluster.local.running_cluster import Cluster, cluster_id, find_cluster, write_record
from cluster.settings import Settings
from training.errors import UserError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def running_process(settings: Settings) -> Iterator[None]:
    environment = os.environ | {processes.CLUSTER_ID_VARIABLE: cluster_id(settings.home)}
    process = subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE)
    yield
    process.communicate(b"\n")


def write_record_without_head(settings: Settings) -> None:
    write_record(settings.home, Cluster(1, 2, 3, 4, "127.0.0.1", {}, head="here 1 0"))
    path = settings.home / "run" / "cluster.json"
    record = json.loads(path.read_text())
    record.pop("head")
    path.write_text(json.dumps(record))


@pytest.mark.usefixtures("running_process")
def test_a_cluster_of_another_version_is_neither_used_nor_ended(settings: Settings) -> None:
    write_record_without_head(settings)

    with pytest.raises(UserError, match=r"started by another version of Shoal; stop it with `shoal down`"):
        find_cluster(settings)


def test_what_a_cluster_of_another_version_left_is_no_cluster(settings: Settings) -> None:
    write_record_without_head(settings)

    assert find_cluster(settings) is None
