"""A deployment that is interrupted at any moment ends in one of two states, and the command says in which."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from deployments.state.store import DeploymentStore
from tests.conftest import ShoalCli, open_http, parse_published, wait_until
from tests.small_bundles import save_table

NAME = "steady"


@pytest.fixture(scope="module")
def two_versions(shoal: ShoalCli, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Version 1 is deployed, version 2 published."""
    folder = tmp_path_factory.mktemp("steady")
    for version in ("1", "2"):
        save_table(folder / version, NAME)
        assert parse_published(shoal("models", "import", str(folder / version))) == f"{NAME}:{version}"
    assert shoal("deploy", f"{NAME}:1", "--cpus", "0.1").returncode == 0


@pytest.fixture(scope="module")
def http(settings: Settings, cluster: Cluster) -> Iterator[httpx.Client]:
    with open_http(settings, cluster) as client:
        yield client


def start_deploy(settings: Settings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).parent / "shoal", "deploy", f"{NAME}:2"],
        env=os.environ | settings.as_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


def get_shown_version(shoal: ShoalCli) -> int:
    status = json.loads(shoal("status", "--json").stdout)
    return next(int(each["version"]) for each in status["deployments"] if each["name"] == NAME)


def list_served_versions(http: httpx.Client) -> list[str]:
    """What the model itself says, through each of several connections."""
    versions = [http.get(f"/v2/models/{NAME}", headers={"Connection": "close"}).json()["versions"] for _ in range(5)]
    return sorted({version for (version,) in versions})


# While the command is imported, while it asks, while replicas start, while they settle.
@pytest.mark.parametrize("after_s", [0.4, 1.2, 2.5, 4.0, pytest.param(5.5, marks=pytest.mark.soak)])
def test_two_interrupts_leave_what_the_command_says(
    shoal: ShoalCli, two_versions: None, settings: Settings, http: httpx.Client, after_s: float
) -> None:
    store = DeploymentStore(settings.platform)
    revision = store.list_revisions(NAME)[0].number
    process = start_deploy(settings)
    time.sleep(after_s)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    stdout, stderr = process.communicate(timeout=60)

    shown = get_shown_version(shoal)
    assert wait_until(lambda: list_served_versions(http) == [str(shown)], 20), list_served_versions(http)
    assert store.list_open_revisions() == []
    # The second one may end a command that has said so and is at its end.
    if process.returncode in (130, -signal.SIGINT):
        said = re.search(rf"{NAME}:(\d)(?: was deployed; it serves| goes on serving)", stderr)
        assert "Traceback" not in stderr
        assert int(said[1] if said else 1) == shown, stderr
        # Before anything was changed there is nothing to say; when that is depends on how busy the machine is.
        assert said or store.list_revisions(NAME)[0].number == revision, stderr
    else:
        assert f"deployed {NAME}:2" in stdout, (process.returncode, stderr)
    if shown == 2:
        assert shoal("deploy", f"{NAME}:1").returncode == 0


def test_a_deploy_that_is_killed_is_finished_by_the_cluster(
    shoal: ShoalCli, two_versions: None, settings: Settings, http: httpx.Client
) -> None:
    process = start_deploy(settings)
    store = DeploymentStore.open(settings)
    assert wait_until(lambda: [each.name for each in store.list_open_revisions()] == [NAME], 30)
    process.kill()
    process.communicate()

    warned = shoal("status").stderr
    assert wait_until(lambda: store.list_open_revisions() == [], 60)

    assert re.search(rf"{NAME} is being deployed \(revision \d+ of \S+; its command was killed", warned)
    assert (store.list_revisions(NAME)[0].outcome, get_shown_version(shoal)) == ("succeeded", 2)
    assert wait_until(lambda: list_served_versions(http) == ["2"], 20), list_served_versions(http)
    assert shoal("status").stderr == ""


def test_deployments_side_by_side_are_all_there_in_the_end(
    shoal: ShoalCli, two_versions: None, settings: Settings, http: httpx.Client, tmp_path: Path
) -> None:
    names = ["beside-a", "beside-b"]
    for name in names:
        save_table(tmp_path / name, name)
    commands = [
        subprocess.Popen(
            [
                *("bash", "-c", 'shoal models import "$0" && shoal deploy "$1" --cpus 0.1'),
                *(str(tmp_path / name), name),
            ],
            env=os.environ
            | settings.as_environment()
            | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    results = [command.communicate(timeout=120) for command in commands]

    assert [command.returncode for command in commands] == [0, 0], results
    for name in [NAME, *names]:
        assert http.get(f"/v2/models/{name}/ready").status_code == 200
    assert {NAME, *names} <= {record.name for record in DeploymentStore.open(settings).list_records()}
