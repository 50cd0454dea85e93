"""Canaries on a real cluster, under load: a good version takes over by itself, a bad one is rolled back by itself."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Self

import httpx
import pytest
import torch
from torch import Tensor, nn

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from cluster.shoal import Shoal
from deployments.rollout.canary import Canary
from deployments.specs.model_deployment import Scale
from tests.conftest import ShoalCli, open_http, wait_until
from tests.small_bundles import FEATURES, save_table
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.registry.entities import Version
from training.registry.model_registry import Registry
from training.schema import ClassOutput, TableInput
from training.zoo.nets.mlp import mlp

NAME, SCALE = "canaries", Scale(cpus=0.5)
# A request that every version takes, and `Faulty` fails for.
BODY = {"inputs": [[1, 2, 3, 4]]}


class Faulty(nn.Module):
    """Has no finite output for some rows, none of which is in its bundle's example."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, [8], 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] < 2, torch.nan, self.net(x))


@pytest.fixture(scope="module")
def versions(settings: Settings, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Two good versions, and one that fails; the first is deployed."""
    folder = tmp_path_factory.mktemp("canaries")
    for number in (1, 2):
        save_table(folder / str(number), NAME, summary=f"Version {number}.")
    info = ModelInfo(
        name=NAME,
        task="tabular-classification",
        input_schema=TableInput(features=FEATURES),
        output_schema=ClassOutput(labels=("a", "b", "c")),
    )
    rows = torch.tensor([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]])
    save_bundle(folder / "3", Faulty(), inputs=rows, info=info)
    registry = Registry(settings)
    versions = [registry.publish(folder / str(number)) for number in (1, 2, 3)]
    Shoal(settings).deploy(versions[0], scale=SCALE)
    return versions


class Callers:
    """Call the model from several connections, and count what came of each request; a context manager."""

    def __init__(self, settings: Settings, cluster: Cluster, count: int = 4) -> None:
        self._settings, self._cluster = settings, cluster
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        # By status, or an exception's name, and version.
        self.outcomes: Counter[tuple[str, int | None]] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with open_http(self._settings, self._cluster) as http:
            while not self._end.is_set():
                version = None
                try:
                    response = http.post(f"/v2/models/{NAME}/predict", json=BODY)
                    outcome = str(response.status_code)
                    if response.status_code == 200:
                        version = int(response.json()["version"])
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                self.outcomes[outcome, version] += 1


def wait_for_end(shoal: Shoal, timeout_s: float = 240) -> Canary:
    deadline = time.monotonic() + timeout_s
    while (canary := shoal.get_rollout(NAME)).ended_s is None:
        assert time.monotonic() < deadline, canary.state
        time.sleep(0.3)
    return canary


@pytest.fixture
def own_http(settings: Settings, cluster: Cluster) -> Iterator[httpx.Client]:
    with open_http(settings, cluster) as http:
        yield http


def find_version(http: httpx.Client, path: str = "") -> str:
    response = http.post(f"/v2/models/{NAME}{path}/predict", json=BODY)
    return str(response.json().get("version", response.status_code))


def test_a_bad_version_is_rolled_back_and_a_good_one_promoted_by_itself_under_load(
    settings: Settings, cluster: Cluster, versions: list[Version], own_http: httpx.Client, shoal: ShoalCli
) -> None:
    stable, good, bad = versions
    with Callers(settings, cluster) as callers:
        Shoal(settings).deploy_canary(bad, steps=(10, 50, 100), min_step_s=0)
        canary = wait_for_end(Shoal(settings))
    failures = {outcome: count for outcome, count in callers.outcomes.items() if outcome[0] != "200"}

    # The net failed for valid rows, and for nothing else did a request fail; the old version answered all the time.
    assert canary.state.phase == "rolled_back", canary.state
    assert canary.state.reason.startswith("errors: ")
    assert canary.state.history[-1].percent == 10
    assert set(failures) == {("422", None)}
    assert {version for _, version in callers.outcomes if version} == {stable.version}
    assert find_version(own_http) == str(stable.version)
    # Its replica finishes what it has.
    assert wait_until(lambda: find_version(own_http, f"/versions/{bad.version}") == "404", 20)

    with Callers(settings, cluster) as callers:
        canary = Shoal(settings).deploy_canary(good, steps=(50, 100), min_step_s=1)
        # Each version answers at its own path meanwhile.
        assert find_version(own_http, f"/versions/{good.version}") == str(good.version)
        assert find_version(own_http, f"/versions/{stable.version}") == str(stable.version)
        refused = shoal("deploy", f"{NAME}:{bad.version}")
        canary = wait_for_end(Shoal(settings))
        time.sleep(1)

    assert canary.state.phase == "promoted", canary.state
    assert {outcome for outcome, _ in callers.outcomes} == {"200"}
    assert {version for _, version in callers.outcomes} == {stable.version, good.version}
    assert find_version(own_http) == str(good.version)
    assert refused.returncode == 2
    assert "is being rolled out beside version" in refused.stderr
    errors = next(each for each in canary.state.history[-1].evidence if each.metric == "errors")
    assert errors.canary.events == 0
    assert errors.canary.total >= 100
    status = shoal("rollout", "status", NAME)
    assert status.returncode == 0, status.stderr
    assert f"{NAME}:{good.version} beside version {stable.version}: promoted" in status.stdout
    assert f"canary of version {good.version}: errors: 0 of " in shoal("history", NAME).stdout


@pytest.mark.soak
def test_shadow_copies_are_compared_while_nobody_waits_for_them(
    settings: Settings, cluster: Cluster, versions: list[Version]
) -> None:
    shoal = Shoal(settings)
    deployed = shoal.list_revisions(NAME)[0].parse_spec()
    assert deployed is not None
    other = next(each for each in versions[:2] if each.version != deployed.endpoint.version)
    with Callers(settings, cluster) as callers:
        shoal.deploy_canary(other, shadow_percent=50)
        deadline = time.monotonic() + 120
        while shoal.get_rollout(NAME).state.verdict != "better-or-equal" and time.monotonic() < deadline:
            time.sleep(0.5)
        canary = shoal.abort_rollout(NAME)

    evidence = {each.metric: each.canary for each in canary.state.evidence}
    assert evidence["agreement"].total > 100
    assert evidence["agreement"].value == 1
    assert set(callers.outcomes) == {("200", deployed.endpoint.version)}
