"""Canaries on a real cluster, under load: a good version takes over by itself, a bad one is rolled back by itself."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc
from torch import Tensor, nn
from tritonclient.utils import InferenceServerException

from cluster.local import processes, secrets
from cluster.local.running_cluster import Cluster, cluster_id, require_cluster, temp_dir
from cluster.settings import Settings
from cluster.shoal import Shoal
from deployments.rollout.canary import Canary
from deployments.specs.model_deployment import Scale
from tests.conftest import ShoalCli, make_shoal_cli, open_http, wait_until
from tests.small_bundles import FEATURES, save_table
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.errors import ServiceError, UserError
from training.registry.entities import Version
from training.registry.model_registry import Registry
from training.schema import ClassOutput, TableInput
from training.zoo.nets.mlp import mlp

NAME, SCALE = "canaries", Scale(cpus=0.5)
# A request that every version takes, and `Faulty` fails for.
BODY = {"inputs": [[1, 2, 3, 4]]}
EXAMPLE = torch.tensor([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]])
INFO = ModelInfo(
    name=NAME,
    task="tabular-classification",
    input_schema=TableInput(features=FEATURES),
    output_schema=ClassOutput(labels=("a", "b", "c")),
)


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
    save_bundle(folder / "3", Faulty(), inputs=EXAMPLE, info=INFO)
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


def find_deployed(shoal: Shoal) -> int:
    deployed = shoal.list_revisions(NAME)[0].parse_spec()
    assert deployed is not None
    return deployed.endpoint.version


@pytest.fixture
def own_http(settings: Settings, cluster: Cluster) -> Iterator[httpx.Client]:
    with open_http(settings, cluster) as http:
        yield http


class GrpcCaller:
    """Triton's client, with a request id for each call; a context manager."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(cluster.grpc_address)
        self._key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def find_version(self, request_id: str, version: str = "") -> str:
        """The version that answers; a gRPC status where none does."""
        rows = tritonclient.grpc.InferInput("input", [1, 4], "FP32")
        rows.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
        headers = {"authorization": f"Bearer {self._key}", "x-request-id": request_id}
        try:
            result = self._client.infer(NAME, [rows], model_version=version, headers=headers)
        except InferenceServerException as error:
            return str(error.status())
        return str(result.get_response().model_version)


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
        canary = Shoal(settings).deploy_canary(good, steps=(50, 100), min_step_s=5)
        # Not by a command: on a busy machine the rollout may have ended before that has started.
        with pytest.raises(UserError, match="is being rolled out beside version"):
            Shoal(settings).deploy(bad)
        # Each version answers at its own path meanwhile.
        assert find_version(own_http, f"/versions/{good.version}") == str(good.version)
        assert find_version(own_http, f"/versions/{stable.version}") == str(stable.version)
        with GrpcCaller(settings, cluster) as grpc:
            assert wait_until(lambda: grpc.find_version("r", str(good.version)) == str(good.version), 3)

            def find_sides() -> dict[str, str]:
                return {request_id: grpc.find_version(request_id) for request_id in map(str, range(30))}

            # The weight comes within a second, as at the edge.
            assert wait_until(lambda: len(set(find_sides().values())) == 2, 3)
            sides = find_sides()
        assert set(sides.values()) == {str(stable.version), str(good.version)}
        for path in (f"/v2/models/{NAME}/predict", f"/api/v1/models/{NAME}/predict"):
            answers = {each: own_http.post(path, json=BODY, headers={"x-request-id": each}).json() for each in sides}
            assert {each: answer["version"] for each, answer in answers.items()} == sides
        status = json.loads(shoal("status", "--json").stdout)
        (deployment,) = [each for each in status["deployments"] if each["name"] == NAME]
        assert {each["version"]: each["weight"] for each in deployment["versions"]} == {
            stable.version: 50,
            good.version: 50,
        }
        canary = wait_for_end(Shoal(settings))
        time.sleep(1)

    assert canary.state.phase == "promoted", canary.state
    assert {outcome for outcome, _ in callers.outcomes} == {"200"}
    assert {version for _, version in callers.outcomes} == {stable.version, good.version}
    assert find_version(own_http) == str(good.version)
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
    stable = find_deployed(shoal)
    other = next(each for each in versions[:2] if each.version != stable)
    with Callers(settings, cluster) as callers:
        shoal.deploy_canary(other, shadow_percent=50)
        deadline = time.monotonic() + 120
        while shoal.get_rollout(NAME).state.verdict != "better-or-equal" and time.monotonic() < deadline:
            time.sleep(0.5)
        canary = shoal.abort_rollout(NAME)

    evidence = {each.metric: each.canary for each in canary.state.evidence}
    assert evidence["agreement"].total > 100
    assert evidence["agreement"].value == 1
    assert set(callers.outcomes) == {("200", stable)}


class Overflow(nn.Module):
    """Has no finite output for its own example."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([1 / (x[:, :1] - x[:, :1])] * 3, 1)


@pytest.mark.soak
def test_a_version_that_does_not_start_takes_no_request_and_stands_in_no_ones_way(
    settings: Settings, cluster: Cluster, versions: list[Version], tmp_path: Path
) -> None:
    shoal = Shoal(settings)
    stable = find_deployed(shoal)
    save_bundle(tmp_path / "overflow", Overflow(), inputs=EXAMPLE, info=INFO)
    broken = Registry(settings).publish(tmp_path / "overflow")
    with Callers(settings, cluster) as callers:
        for _ in range(2):
            with pytest.raises(
                ServiceError, match=f"version {broken.version} does not start: .*version {stable} goes on"
            ):
                shoal.deploy_canary(broken, steps=(50, 100))
            assert wait_for_end(shoal).state.phase == "rolled_back"

    assert set(callers.outcomes) == {("200", stable)}


@pytest.mark.soak
def test_a_controller_that_dies_goes_on_with_the_evidence_and_only_then_decides(
    settings: Settings, cluster: Cluster, versions: list[Version]
) -> None:
    shoal = Shoal(settings)
    stable = find_deployed(shoal)
    other = next(each for each in versions[:2] if each.version != stable)

    def count() -> int:
        evidence = {each.metric: each.canary.total for each in shoal.get_rollout(NAME).state.evidence}
        return evidence.get("errors", 0)

    with Callers(settings, cluster) as callers:
        shoal.deploy_canary(other, steps=(50, 100), min_step_s=3600)
        assert wait_until(lambda: count() > 1000, 60)
        time.sleep(5)  # the evidence is kept so often
        before = count()
        (controller,) = [
            each
            for each in processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
            if "ray::Controller" in " ".join(each.cmdline())
        ]
        controller.kill()
        assert wait_until(lambda: count() > before, 30)
        assert shoal.get_rollout(NAME).state.phase == "running"
        shoal.abort_rollout(NAME)

    assert {outcome for outcome, _ in callers.outcomes} == {"200"}


@pytest.mark.soak
def test_a_rollout_outlives_its_cluster(tmp_path: Path) -> None:
    run = make_shoal_cli(tmp_path / "home")
    settings = Settings(home=tmp_path / "home", http_port=0, grpc_port=0, dashboard_port=0)
    registry = Registry(settings)
    try:
        assert run("up").returncode == 0
        published = []
        for number in (1, 2):
            save_table(tmp_path / str(number), NAME, summary=f"Version {number}.")
            published.append(registry.publish(tmp_path / str(number)))
        stable, new = published
        Shoal(settings).deploy(stable, scale=SCALE)
        Shoal(settings).deploy_canary(new, steps=(50, 100), min_step_s=3600)
        assert run("down").returncode == 0
        assert run("up").returncode == 0
        cluster = require_cluster(settings)
        with open_http(settings, cluster) as http:
            for version in published:
                number = str(version.version)
                assert wait_until(lambda number=number: find_version(http, f"/versions/{number}") == number, 60)  # type: ignore[misc]
            assert Shoal(settings).get_rollout(NAME).state.phase == "running"
            assert run("rollout", "promote", NAME).returncode == 0
            assert find_version(http) == str(new.version)
    finally:
        run("down")
