"""Fixtures of several test folders: small real bundles, and one real cluster for the session.

Fixtures import torch and MLflow themselves: pytest imports this file first, in the process that deals out tests too.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster, require_cluster
from cluster.rollout.deploy import deploy
from cluster.rollout.serve_api import ServeApi
from cluster.settings import Settings
from deployments.specs.model_deployment import Scale
from training.registry.model_registry import Registry
from training.settings import TrainingSettings

# Tests set SHOAL_HOME and the ports themselves, so that a cluster that runs on this machine is not touched.
for name in [name for name in os.environ if name.startswith("SHOAL_")]:
    del os.environ[name]

# An example that took long says that the machine was busy.
hypothesis.settings.register_profile("shoal", deadline=None)
hypothesis.settings.load_profile("shoal")

ShoalCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def saved_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles of save_table and save_image; tests get copies, since an export takes a second."""
    from tests.small_bundles import save_image, save_table

    folder = tmp_path_factory.mktemp("saved")
    save_table(folder / "table")
    save_image(folder / "image")
    return folder


@pytest.fixture
def table_bundle(saved_bundles: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_bundles / "table", tmp_path / "table")


@pytest.fixture
def image_bundle(saved_bundles: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_bundles / "image", tmp_path / "image")


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store; tests get copies, since creating one takes a second."""
    from training.registry.mlflow_store import MlflowStore

    settings = TrainingSettings(home=tmp_path_factory.mktemp("empty"))
    MlflowStore(settings)
    return settings.home / "registry.db"


@pytest.fixture
def registry_settings(empty_registry: Path, tmp_path: Path) -> TrainingSettings:
    """A SHOAL_HOME with an empty registry."""
    settings = TrainingSettings(home=tmp_path / "home")
    settings.home.mkdir()
    shutil.copy(empty_registry, settings.home)
    with contextlib.closing(sqlite3.connect(settings.home / "registry.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", [settings.artifacts])
    return settings


def make_shoal_cli(home: Path) -> ShoalCli:
    """Return a function that runs a `shoal` command as a subprocess, with this SHOAL_HOME and on free ports."""
    environment = os.environ | {
        "SHOAL_HOME": str(home),
        "SHOAL_HTTP_PORT": "0",
        "SHOAL_GRPC_PORT": "0",
        "SHOAL_DASHBOARD_PORT": "0",
    }

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        extra = options.pop("env", {})
        result: subprocess.CompletedProcess[str] = subprocess.run(
            [Path(sys.executable).parent / "shoal", *arguments],
            env=environment | extra,  # type: ignore[operator]
            capture_output=True,
            text=True,
            timeout=300,
            **options,  # type: ignore[call-overload]
        )
        return result

    return run


def parse_published(result: subprocess.CompletedProcess[str]) -> str:
    """Return the NAME:VERSION that a command printed; other tests may publish under the same name."""
    assert result.returncode == 0, result.stderr
    (version,) = re.findall(r"^published (\S+:\d+)", result.stdout, re.MULTILINE)
    return str(version)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def shoal(home: Path) -> ShoalCli:
    return make_shoal_cli(home)


@pytest.fixture(scope="session")
def settings(home: Path) -> Settings:
    return Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0)


@pytest.fixture(scope="session")
def cluster(shoal: ShoalCli, settings: Settings) -> Iterator[Cluster]:
    """A real cluster that runs for the session."""
    result = shoal("up")
    try:
        assert result.returncode == 0, result.stderr
        yield require_cluster(settings)
    finally:
        shoal("down")


@pytest.fixture(scope="session")
def serving_cluster(settings: Settings, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster with two small models, `flowers` and `images`, published and deployed."""
    from tests.small_bundles import save_image, save_table

    folder = tmp_path_factory.mktemp("bundles")
    save_table(folder / "table")
    save_image(folder / "image")
    for name in ("table", "image"):
        publish_and_deploy(settings, cluster, folder / name)
    return cluster


def publish_and_deploy(settings: Settings, cluster: Cluster, folder: Path) -> None:
    """Publish and deploy a bundle in this process, since starting a command takes longer than both."""
    version = Registry(settings).publish(folder)
    deploy(settings, cluster, version, lambda status: None, scale=Scale(cpus=0.5))


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll a condition; returns whether it became true before the timeout."""
    deadline = time.monotonic() + timeout_s
    while not (is_true := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_true


def open_http(settings: Settings, cluster: Cluster) -> httpx.Client:
    """Return an HTTP client that sends the admin key."""
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    timeout_s = settings.limits.request_timeout_s + 5
    return httpx.Client(
        base_url=cluster.url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s, trust_env=False
    )


def fetch_applications(settings: Settings, cluster: Cluster) -> dict[str, Any]:
    with ServeApi(settings, cluster) as api:
        return api.fetch_applications()


@pytest.fixture(scope="session")
def http(serving_cluster: Cluster, settings: Settings) -> Iterator[httpx.Client]:
    """An HTTP client that sends the admin key."""
    with open_http(settings, serving_cluster) as client:
        yield client
