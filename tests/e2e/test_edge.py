"""The edge and membership on a real cluster: whatever dies or moves, requests are answered; keys count at once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.local import processes
from cluster.local.running_cluster import Cluster, cluster_id, require_cluster, temp_dir
from cluster.rollout.deploy import deploy, undeploy
from cluster.settings import Settings
from deployments.control.summary import count_running_replicas
from deployments.server.handle_client import REPLICA_WAIT_S
from deployments.specs.model_deployment import Scale
from tests.conftest import fetch_applications, wait_until
from tests.e2e.load import Load
from tests.small_bundles import save_table
from training.registry.entities import Version
from training.registry.model_registry import Registry

RECOVERY_S = 2.0

FindProcess = Callable[[str], psutil.Process]


def is_replaced(find_process: FindProcess, part: str, before: psutil.Process) -> bool:
    """Whether a process that started later stands in another one's place."""
    try:
        return find_process(part).create_time() > before.create_time()
    except (ValueError, psutil.NoSuchProcess):
        return False


@pytest.fixture(scope="module")
def pair(settings: Settings, serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A model with two replicas."""
    folder = tmp_path_factory.mktemp("bundle") / "pair"
    save_table(folder, name="pair")
    version = Registry(settings).publish(folder)
    scale = Scale(min_replicas=2, max_replicas=2, cpus=0.1)
    deploy(settings, serving_cluster, version, lambda status: None, scale=scale)
    return version


@pytest.fixture
def find_process(settings: Settings, serving_cluster: Cluster) -> FindProcess:
    """A function that finds the newest process of the cluster by a part of its command line."""

    def find(part: str) -> psutil.Process:
        owned = processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
        matching = [process for process in owned if part in " ".join(process.cmdline())]
        return max(matching, key=lambda process: process.create_time())

    return find


@pytest.fixture
def load(settings: Settings, serving_cluster: Cluster, pair: Version) -> Iterator[Load]:
    with Load(settings, serving_cluster, "pair") as load:
        yield load


def test_a_killed_haproxy_costs_its_own_connections_and_is_back_at_once(load: Load, find_process: FindProcess) -> None:
    killed_s = time.monotonic()
    find_process("haproxy -db").kill()

    load.wait_for_answers(200)
    assert all(at - killed_s < RECOVERY_S for at, _ in load.failures)
    assert {outcome for _, outcome in load.failures} <= {
        "ConnectError",
        "RemoteProtocolError",
        "ReadError",
        "WriteError",
    }


def test_a_killed_edge_process_costs_nothing_and_its_successor_takes_over(
    load: Load, find_process: FindProcess, settings: Settings, serving_cluster: Cluster, tmp_path: Path
) -> None:
    before, haproxy = find_process("ServeReplica:shoal.edge"), find_process("haproxy -db")
    before.kill()

    load.wait_for_answers(200)
    assert wait_until(lambda: is_replaced(find_process, "ServeReplica:shoal.edge", before), 60)
    # The successor starts a process of its own, which takes the sockets over.
    assert wait_until(lambda: is_replaced(find_process, "haproxy -db", haproxy), 60)
    deploy_small_model(settings, serving_cluster, tmp_path, "after-edge")
    load.wait_for_answers(50)
    assert load.failures == []


def test_a_killed_directory_costs_nothing_and_members_join_its_successor(
    load: Load, find_process: FindProcess, settings: Settings, serving_cluster: Cluster, tmp_path: Path
) -> None:
    before = find_process("ray::Directory")
    before.kill()

    load.wait_for_answers(200)
    assert wait_until(lambda: is_replaced(find_process, "ray::Directory", before), 60)
    deploy_small_model(settings, serving_cluster, tmp_path, "after-directory")
    load.wait_for_answers(200)
    assert load.failures == []


@pytest.mark.soak
def test_a_killed_global_control_store_costs_nothing_and_is_back(
    load: Load, find_process: FindProcess, settings: Settings, serving_cluster: Cluster, tmp_path: Path
) -> None:
    find_process("gcs/gcs_server").kill()

    load.wait_for_answers(200)
    cluster = require_cluster(settings)
    assert cluster.head != serving_cluster.head
    deploy_small_model(settings, cluster, tmp_path, "after-gcs")
    assert load.failures == []


@pytest.mark.soak
@pytest.mark.parametrize("part", ["ServeReplica:pair", "haproxy -db"])
def test_what_is_stopped_is_replaced(load: Load, find_process: FindProcess, part: str) -> None:
    before = find_process(part)
    before.suspend()
    stopped_s = time.monotonic()

    assert wait_until(lambda: is_replaced(find_process, part, before), 90)
    load.wait_for_answers(200)
    # Of HAProxy, those that were on their way.
    assert all(at - stopped_s < 5 for at, _ in load.failures)
    assert len(load.failures) <= (4 if part.startswith("haproxy") else 0)


def test_a_killed_replica_costs_nothing_where_there_is_another(load: Load, find_process: FindProcess) -> None:
    before = find_process("ServeReplica:pair")
    before.kill()

    load.wait_for_answers(200)
    assert wait_until(lambda: is_replaced(find_process, "ServeReplica:pair", before), 60)
    load.wait_for_answers(50)
    assert load.failures == []


def test_requests_wait_where_the_only_replica_is_killed(
    serving_cluster: Cluster, settings: Settings, find_process: FindProcess
) -> None:
    with Load(settings, serving_cluster, "flowers") as load:
        killed_s = time.monotonic()
        find_process("ServeReplica:flowers").kill()

        load.wait_for_answers(50)
    # On a busy machine the next replica may take longer than a request waits for it.
    assert [each for each in load.failures if each[1] != "503" or each[0] - killed_s < REPLICA_WAIT_S] == []


# Versions that are rolled under load are test_rollout.py's; here with four connections that stay.
@pytest.mark.soak
def test_a_new_version_answers_and_no_request_is_lost(
    load: Load, settings: Settings, serving_cluster: Cluster, pair: Version, tmp_path: Path
) -> None:
    save_table(tmp_path / "pair", name="pair", summary="Another version.")
    second = Registry(settings).publish(tmp_path / "pair")

    deploy(settings, serving_cluster, second, lambda status: None)
    deploy(settings, serving_cluster, pair, lambda status: None)

    load.wait_for_answers(50)
    assert load.failures == []


def test_a_key_counts_within_a_second_and_so_does_its_end(http: httpx.Client, settings: Settings) -> None:
    created = http.post("/api/v1/keys", json={"name": "visitor", "tenant": "acme"}).json()
    key = created["key"]

    def is_accepted() -> bool:
        return http.get("/v2", headers={"Authorization": f"Bearer {key}"}).status_code == 200

    assert wait_until(is_accepted, 1.0)
    assert http.delete(f"/api/v1/keys/{created['id']}").json()["status"] == "revoked"
    assert wait_until(lambda: not is_accepted(), 1.0)


def test_a_replica_takes_no_request_that_the_edge_did_not_send(
    settings: Settings, serving_cluster: Cluster, find_process: FindProcess, http: httpx.Client
) -> None:
    replica = find_process("ServeReplica:flowers")
    addresses = {each.laddr for each in replica.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    answers = {}
    for address in addresses:
        url = f"http://{address.ip.removeprefix('::ffff:')}:{address.port}/v2/models/flowers"
        try:
            answers[address.port] = httpx.get(url, headers=http.headers, trust_env=False, timeout=5).status_code
        except httpx.HTTPError:
            answers[address.port] = 0  # a port of Ray's own, which speaks no HTTP/1.1

    assert 403 in answers.values()
    assert 200 not in answers.values()


def test_what_is_undeployed_is_gone_when_the_command_returns(
    http: httpx.Client, settings: Settings, serving_cluster: Cluster, tmp_path: Path
) -> None:
    deploy_small_model(settings, serving_cluster, tmp_path, "short")
    assert http.get("/v2/models/short").status_code == 200

    undeploy(settings, serving_cluster, "short", lambda status: None)

    assert http.get("/v2/models/short").status_code == 404


@pytest.mark.soak
def test_replicas_follow_the_load_between_their_bounds(
    settings: Settings, serving_cluster: Cluster, tmp_path: Path
) -> None:
    def count_replicas() -> int:
        return count_running_replicas(fetch_applications(settings, serving_cluster)["elastic"])

    save_table(tmp_path / "elastic", name="elastic")
    scale = Scale(min_replicas=1, max_replicas=2, cpus=0.1, target_ongoing_requests=1)
    deploy(
        settings,
        serving_cluster,
        Registry(settings).publish(tmp_path / "elastic"),
        lambda status: None,
        scale=scale,
    )
    # Requests that take long enough to be inside a replica when it counts.
    with Load(settings, serving_cluster, "elastic", callers=8, rows=5000) as load:
        # Serve's delays: 30 s of load before a replica is added, 600 s without before one is removed.
        assert wait_until(lambda: count_replicas() == 2, 90)
    assert load.failures == []


def deploy_small_model(settings: Settings, cluster: Cluster, folder: Path, name: str) -> None:
    """Deploy a model and call it: the edge routes to a model that it did not know."""
    save_table(folder / name, name=name)
    deploy(settings, cluster, Registry(settings).publish(folder / name), lambda status: None, scale=Scale(cpus=0.1))
    with Load(settings, cluster, name, callers=1) as load:
        load.wait_for_answers(5)
    assert load.failures == []
