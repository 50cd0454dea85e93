"""A new version under load: no request fails, no answer names a version that did not compute it, all is recorded."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from torch import Tensor, nn

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy, make_origin, rollback
from cluster.settings import Settings
from deployments.specs.model_deployment import Scale
from tests.conftest import ShoalCli, open_http, wait_until
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.errors import ServiceError
from training.registry.entities import Version
from training.registry.model_registry import Registry
from training.schema import NumberOutput, TableInput

NAME = "number"
INFO = ModelInfo(
    name=NAME,
    task="tabular-regression",
    input_schema=TableInput(features=("x", "y")),
    output_schema=NumberOutput(name="value"),
)
INFER_BODY = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


class Constant(nn.Module):
    """The same number for every row: the version's."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * 0 + self.value


@pytest.fixture(scope="module")
def versions(settings: Settings, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Versions 1 and 2, whose outputs are these numbers, and 3, whose output is infinite."""
    folder, registry = tmp_path_factory.mktemp(NAME), Registry(settings)
    published = []
    for value in (1.0, 2.0, float("inf")):
        rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        net = Constant(value) if value < 3 else Overflow()
        save_bundle(folder / str(value), net, inputs=rows, info=INFO)
        published.append(registry.publish(folder / str(value)))
    return published


class Overflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / (x[:, :1] - x[:, :1])


class VersionCheck:
    """Callers that compare the version that an answer names with the number that it gives; use as a context manager."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings, self._cluster = settings, cluster
        self._end = threading.Event()
        self.failures: list[str] = []
        self.versions: Counter[str] = Counter()
        targets = [self._predict, self._infer, self._predict, self._check_health]
        self._threads = [threading.Thread(target=self._run, args=(target,)) for target in targets]

    def __enter__(self) -> "VersionCheck":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count: int) -> None:
        wanted = self.versions.total() + count
        assert wait_until(lambda: self.versions.total() >= wanted, 60), self.failures[-3:]

    def _run(self, call: object) -> None:
        with open_http(self._settings, self._cluster) as http:
            while not self._end.is_set():
                try:
                    call(http)  # type: ignore[operator]
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.failures.append(repr(error))

    def _predict(self, http: httpx.Client) -> None:
        response = http.post(f"/v2/models/{NAME}/predict", json={"inputs": [[1, 2]]}).raise_for_status().json()
        self._compare(response["version"], response["predictions"][0]["value"])

    def _infer(self, http: httpx.Client) -> None:
        response = http.post(f"/v2/models/{NAME}/infer", json=INFER_BODY).raise_for_status().json()
        self._compare(response["model_version"], response["outputs"][0]["data"][0])

    def _compare(self, version: str, value: float) -> None:
        self.versions[version] += 1
        if float(version) != value:
            self.failures.append(f"an answer of version {version} is {value}")

    def _check_health(self, http: httpx.Client) -> None:
        for path in ("/v2/health/live", "/v2/health/started", "/v2/health/ready", f"/v2/models/{NAME}/ready"):
            response = http.get(path)
            if response.status_code != 200:
                self.failures.append(f"{time.monotonic():.1f} {path}: {response.status_code} {response.text}")
        time.sleep(0.05)


def test_versions_are_rolled_under_load_and_back(
    settings: Settings, cluster: Cluster, versions: list[Version], shoal: ShoalCli
) -> None:
    def run_deploy(version: Version, reason: str = "") -> None:
        scale = Scale(cpus=0.1)
        deploy(settings, cluster, version, lambda _: None, scale=scale, origin=make_origin(reason))

    run_deploy(versions[0], "the first")
    with VersionCheck(settings, cluster) as check:
        check.wait_for_answers(50)
        assert set(check.versions) == {"1"}
        run_deploy(versions[1])
        seen = Counter(check.versions)
        check.wait_for_answers(50)
        # Once it is deployed, nothing comes from the one before.
        assert wait_until(lambda: check.versions["2"] > seen["2"] + 20, 20)
        with pytest.raises(ServiceError, match=r"output '\w+' is infinite for row 0 of the bundle's own example"):
            run_deploy(versions[2])
        check.wait_for_answers(50)
        (summary,) = [each for each in fetch_deployments(settings, cluster) if each["name"] == NAME]
        rollback(settings, cluster, NAME, lambda _: None)
        after = check.versions["1"]
        assert wait_until(lambda: check.versions["1"] > after + 50, 20)

    assert check.failures == []
    assert set(check.versions) == {"1", "2"}
    history = json.loads(shoal("history", NAME, "--json").stdout)
    assert [(each["action"], each["version"], each["outcome"]) for each in history] == [
        ("rollback", 1, "succeeded"),
        ("deploy", 3, "failed"),
        ("deploy", 2, "succeeded"),
        ("deploy", 1, "succeeded"),
    ]
    assert history[0]["restores"] == 1
    assert "is infinite" in history[1]["message"]
    assert (history[3]["reason"], history[3]["spec"]["scale"]["cpus"]) == ("the first", 0.1)
    assert (summary["revision"], summary["version"], summary["status"]) == (2, 2, "RUNNING")
    assert summary["traffic"]["requests_per_s"] > 1
    assert summary["traffic"]["errors_per_s"] == 0
    assert 0 < summary["traffic"]["p50_s"] <= summary["traffic"]["p99_s"]


def fetch_deployments(settings: Settings, cluster: Cluster) -> list[dict[str, object]]:
    with open_http(settings, cluster) as http:
        deployments: list[dict[str, object]] = http.get("/api/v1/deployments").raise_for_status().json()["deployments"]
        return deployments


@pytest.fixture
def watcher(settings: Settings, serving_cluster: Cluster) -> Iterator["subprocess.Popen[str]"]:
    """`shoal status --watch --json`."""
    process = subprocess.Popen(
        [Path(sys.executable).parent / "shoal", "status", "--watch", "--json", "--interval", "0.2"],
        env=os.environ | settings.as_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    yield process
    process.kill()
    process.communicate()


def test_a_status_that_is_watched_is_refreshed_until_ctrl_c(watcher: "subprocess.Popen[str]") -> None:
    assert watcher.stdout is not None
    lines = [json.loads(watcher.stdout.readline()) for _ in range(3)]
    watcher.send_signal(signal.SIGINT)
    _, stderr = watcher.communicate(timeout=20)

    assert (watcher.returncode, stderr) == (0, "")
    for line in lines:
        flowers = next(each for each in line["deployments"] if each["name"] == "flowers")
        assert (flowers["status"], flowers["reason"]) == ("RUNNING", "")
        assert (flowers["replicas"], flowers["target_replicas"]) == (1, 1)
        assert [(each["version"], each["weight"]) for each in flowers["versions"]] == [(flowers["version"], 100)]
        assert flowers["revision"] >= 1
