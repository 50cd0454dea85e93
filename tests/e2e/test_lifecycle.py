"""The life cycle of a local cluster: it starts, stops, and leaves nothing behind however it ends."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.local import malloc, processes
from cluster.local.running_cluster import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from deployments.state.store import DeploymentStore
from tests.conftest import ShoalCli, make_shoal_cli
from tests.small_bundles import save_table
from training.registry.model_registry import Registry


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    make_shoal_cli(home)("down")


def find_free_port(low: int, high: int) -> int:
    for port in range(low, high):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError(f"no port of {low} to {high} is free")


def list_owned_processes(home: Path) -> list[psutil.Process]:
    return processes.find_owned(cluster_id(home), temp_dir(home))


def list_listening_sockets(owned: list[psutil.Process]) -> set[tuple[str, int]]:
    sockets = set()
    for process in owned:
        # It may have ended meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets |= {(c.laddr.ip, c.laddr.port) for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    return sockets


def assert_nothing_is_left(home: Path, sockets: set[tuple[str, int]]) -> None:
    assert list_owned_processes(home) == []
    assert not temp_dir(home).exists()
    command_lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if str(temp_dir(home)) in line]
    for _, port in sockets:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port


@pytest.mark.soak
def test_a_cluster_restarts_with_its_deployments_and_stops_without_a_trace_beside_another_cluster(
    own_home: Path, tmp_path: Path, serving_cluster: Cluster, http: httpx.Client
) -> None:
    shoal = make_shoal_cli(own_home)
    save_table(tmp_path / "table")
    # A port of the range that Ray would keep for its workers.
    port = find_free_port(10_002, 19_999)
    started = shoal("up", env={"SHOAL_DASHBOARD_PORT": str(port)})
    assert started.returncode == 0, started.stderr
    assert http.get("/v2/models/flowers/ready").status_code == 200
    assert shoal("models", "import", str(tmp_path / "table")).returncode == 0
    assert shoal("deploy", "flowers").returncode == 0
    lost = deploy_another(shoal, own_home, tmp_path)
    owned = list_owned_processes(own_home)
    assert {"gcs_server", "raylet", "haproxy"} <= {process.name() for process in owned}
    replicas = [process for process in owned if process.cmdline()[:1] == ["ray::ServeReplica:flowers:replica"]]
    # Of the variable, some versions of glibc leave in /proc only what precedes the first colon.
    tunables = [process.environ()["GLIBC_TUNABLES"].partition(":")[0] for process in replicas]
    assert tunables == [malloc.TUNABLES.partition(":")[0]]
    sockets = list_listening_sockets(owned)

    again = shoal("up")  # idempotent
    assert again.returncode == 0
    assert shoal("down").returncode == 0
    assert_nothing_is_left(own_home, sockets)
    assert "nothing was running" in shoal("down").stdout
    assert http.get("/v2/models/flowers/ready").status_code == 200

    shutil.rmtree(lost)
    restarted = shoal("up")
    response = shoal("predict", "flowers", '{"inputs": [[5.1, 3.5, 1.4, 0.2]]}')
    status = shoal("status")
    undeployed = shoal("undeploy", "lost")
    # What one model lacks is said, and keeps no other from being served.
    assert restarted.returncode == 0, restarted.stderr
    assert re.search(r"warning: lost does not start: .*bundle\.json", restarted.stderr)
    assert response.returncode == 0, response.stderr
    assert "warning: lost does not run:" in status.stderr
    assert undeployed.returncode == 0, undeployed.stderr
    assert shoal("down").returncode == 0
    # And what is deployed may change while nothing runs.
    assert shoal("undeploy", "flowers").returncode == 0
    assert DeploymentStore(Settings(home=own_home).platform).list_records() == []


def deploy_another(shoal: ShoalCli, home: Path, folder: Path) -> Path:
    """Publish and deploy the model `lost`; returns the folder of its bundle in the store."""
    save_table(folder / "another", "lost")
    assert shoal("models", "import", str(folder / "another")).returncode == 0
    assert shoal("deploy", "lost").returncode == 0
    return Path(Registry(Settings(home=home)).resolve("lost").uri.removeprefix("file://"))


def kill_processes(home: Path, *names: str) -> None:
    for process in list_owned_processes(home):
        if process.name() in names:
            process.kill()


def filter_alive(owned: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in owned if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_the_next_command_cleans_up_after_a_crash(own_home: Path) -> None:
    shoal = make_shoal_cli(own_home)
    assert shoal("up").returncode == 0
    before = list_owned_processes(own_home)
    # The worst case: GCS and raylet are killed at once, and the cluster's record is lost.
    kill_processes(own_home, "gcs_server", "raylet")
    (own_home / "run" / "cluster.json").unlink()

    again = shoal("up")

    assert again.returncode == 0, again.stderr
    assert filter_alive(before) == []
    owned = list_owned_processes(own_home)
    sockets = list_listening_sockets(owned)
    # HAProxy ends by itself when its node's Ray does.
    (haproxy,) = [process for process in owned if process.name() == "haproxy"]
    kill_processes(own_home, "raylet")
    haproxy.wait(timeout=30)
    kill_processes(own_home, "gcs_server")
    (own_home / "run" / "cluster.json").unlink()

    result = shoal("down")

    assert result.returncode == 0, result.stderr
    assert filter_alive(owned) == []
    assert_nothing_is_left(own_home, sockets)


# While the command is imported, while Ray starts, while a run starts; with `make soak` also while it trains.
@pytest.mark.parametrize("after_s", [0.3, 4.0, 12.0, pytest.param(30.0, marks=pytest.mark.soak)])
def test_ctrl_c_at_any_time_of_the_demo_leaves_nothing_behind(own_home: Path, after_s: float) -> None:
    environment = os.environ | {
        "SHOAL_HOME": str(own_home),
        "SHOAL_HTTP_PORT": "0",
        "SHOAL_GRPC_PORT": "0",
        "SHOAL_DASHBOARD_PORT": "0",
    }
    demo = subprocess.Popen(
        [Path(sys.executable).parent / "shoal", "demo"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs, the tests perhaps, with SIGINT ignored; children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    time.sleep(after_s)
    sockets = list_listening_sockets(list_owned_processes(own_home))
    # As a terminal does, to every process of the foreground group.
    os.killpg(demo.pid, signal.SIGINT)
    try:
        _, stderr = demo.communicate(timeout=30)
    except subprocess.TimeoutExpired as late:
        # Python drops a KeyboardInterrupt within a weak reference's callback, of which torch has many, and prints
        # "Exception ignored in"; only then is a second Ctrl-C acceptable.
        if b"Exception ignored in" not in (late.stderr or b""):
            raise
        os.killpg(demo.pid, signal.SIGINT)
        _, stderr = demo.communicate(timeout=30)
        stderr = stderr.rpartition("KeyboardInterrupt")[2]

    assert demo.returncode in (130, -signal.SIGINT), stderr
    assert "Traceback" not in stderr
    assert_nothing_is_left(own_home, sockets)


def list_external_addresses() -> list[str]:
    """Return this machine's addresses that are neither loopback nor link-local."""
    addresses = [
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return [address for address in addresses if not address.startswith(("127.", "::1", "fe80"))]


def test_no_port_is_reachable_at_another_address_of_the_machine(serving_cluster: Cluster, settings: Settings) -> None:
    ports = {port for _, port in list_listening_sockets(list_owned_processes(settings.home))}
    assert {serving_cluster.http_port, serving_cluster.grpc_port} <= ports
    assert len(ports) > 15

    reachable = []
    for address in list_external_addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            with socket.socket(family) as probe:
                probe.settimeout(0.5)
                if probe.connect_ex((address, port)) == 0:
                    reachable.append((address, port))

    assert list_external_addresses(), "this machine has no other address, so the test shows nothing"
    assert reachable == []


def test_every_listening_port_is_bound_to_loopback(serving_cluster: Cluster, settings: Settings) -> None:
    sockets = list_listening_sockets(list_owned_processes(settings.home))

    assert {ip.removeprefix("::ffff:") for ip, _ in sockets} == {"127.0.0.1"}


def test_secrets_are_readable_by_their_owner_only(serving_cluster: Cluster, settings: Settings) -> None:
    folder = settings.home / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.name: f.stat().st_mode & 0o777 for f in folder.iterdir()} == {
        "admin_key": 0o600,
        "audit_key": 0o600,
        "audit_key.pub": 0o600,
        "edge_secret": 0o600,
        "key_pepper": 0o600,
        "ray_token": 0o600,
        "signing_key": 0o600,
    }
    assert temp_dir(settings.home).stat().st_mode & 0o777 == 0o700


def test_the_admin_key_is_created_once(shoal: ShoalCli, serving_cluster: Cluster, settings: Settings) -> None:
    before = (settings.home / "secrets" / "admin_key").read_text()

    assert shoal("init").returncode == 0
    assert shoal("up").returncode == 0

    assert (settings.home / "secrets" / "admin_key").read_text() == before


def test_no_key_is_in_serves_configuration(serving_cluster: Cluster, settings: Settings) -> None:
    from cluster.local import secrets
    from tests.conftest import fetch_applications

    applications = json.dumps(fetch_applications(settings, serving_cluster))

    assert secrets.read_secret(settings.home, secrets.ADMIN_KEY) not in applications


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = make_shoal_cli(tmp_path)("up", env={"SHOAL_HTTP_PORT": str(port)})

    assert result.returncode == 2
    assert result.stderr == (
        f"error: port {port} on 127.0.0.1 is in use (Address already in use); set SHOAL_HTTP_PORT to another, or 0\n"
    )
