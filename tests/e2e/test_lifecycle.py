"""How a cluster comes up and goes: nothing left behind, however it ends."""

import contextlib
import json
import os
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
from cluster.local.record import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from tests.conftest import Shoal, save_table, shoal_for


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shoal_for(home)("down")


def ours(home: Path) -> list[psutil.Process]:
    return processes.find_owned(cluster_id(home), temp_dir(home))


def listening(found: list[psutil.Process]) -> set[tuple[str, int]]:
    addresses = set()
    for process in found:
        # One of Ray's helpers may end meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess):
            addresses |= {
                (c.laddr.ip, c.laddr.port) for c in process.net_connections() if c.status == psutil.CONN_LISTEN
            }
    return addresses


def assert_nothing_is_left(home: Path, ports: set[tuple[str, int]]) -> None:
    assert ours(home) == []
    assert not temp_dir(home).exists()
    command_lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if str(temp_dir(home)) in line]
    for _, port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port


def names(found: list[psutil.Process]) -> set[str]:
    return {p.name() for p in found}


def test_a_cluster_comes_back_with_its_deployments_and_goes_without_a_trace_beside_another(
    own_home: Path, tmp_path: Path, served: Cluster, http: httpx.Client
) -> None:
    shoal = shoal_for(own_home)
    save_table(tmp_path / "table")
    assert shoal("up").returncode == 0
    assert http.get("/v2/models/flowers/ready").status_code == 200
    assert shoal("models", "import", str(tmp_path / "table")).returncode == 0
    assert shoal("deploy", "flowers").returncode == 0
    found = ours(own_home)
    assert {"gcs_server", "raylet", "haproxy"} <= names(found)
    replicas = [each for each in found if each.cmdline()[:1] == ["ray::ServeReplica:flowers:replica"]]
    # Some glibc leave no more of it in /proc, once they have read it, than what stands before the first colon.
    told = [each.environ()["GLIBC_TUNABLES"].partition(":")[0] for each in replicas]
    assert told == [malloc.TUNABLES.partition(":")[0]]
    ports = listening(found)

    again = shoal("up")  # idempotent
    assert again.returncode == 0
    assert shoal("down").returncode == 0
    assert_nothing_is_left(own_home, ports)
    assert "nothing was running" in shoal("down").stdout
    assert http.get("/v2/models/flowers/ready").status_code == 200

    assert shoal("up").returncode == 0
    answer = shoal("predict", "flowers", '{"inputs": [[5.1, 3.5, 1.4, 0.2]]}')
    assert answer.returncode == 0, answer.stderr


def crash(home: Path, *named: str) -> None:
    for process in ours(home):
        if process.name() in named:
            process.kill()


def alive(found: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_what_a_crash_left_is_cleared_by_the_next_command(own_home: Path) -> None:
    shoal = shoal_for(own_home)
    assert shoal("up").returncode == 0
    before = ours(own_home)
    # The machine's worst: GCS and raylet gone at once, the record of the cluster too.
    crash(own_home, "gcs_server", "raylet")
    (own_home / "run" / "cluster.json").unlink()

    again = shoal("up")

    assert again.returncode == 0, again.stderr
    assert alive(before) == []
    found = ours(own_home)
    ports = listening(found)
    # HAProxy dies with whoever started it, unasked.
    (haproxy,) = [p for p in found if p.name() == "haproxy"]
    crash(own_home, "raylet")
    haproxy.wait(timeout=30)
    crash(own_home, "gcs_server")
    (own_home / "run" / "cluster.json").unlink()

    done = shoal("down")

    assert done.returncode == 0, done.stderr
    assert alive(found) == []
    assert_nothing_is_left(own_home, ports)


# While the command is imported, Ray starts, a run begins; and, with the others of `make soak`, while it trains.
@pytest.mark.parametrize("after_s", [0.3, 4.0, 12.0, pytest.param(30.0, marks=pytest.mark.soak)])
@pytest.mark.parametrize("number", [signal.SIGINT], ids=["Ctrl-C"])
def test_ctrl_c_at_any_moment_of_the_demo_leaves_nothing(own_home: Path, after_s: float, number: int) -> None:
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
        # A terminal's foreground; where the tests themselves run in the background, children would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    time.sleep(after_s)
    ports = listening(ours(own_home))
    # As a terminal does: to every process of the foreground group.
    os.killpg(demo.pid, number)
    try:
        _, said = demo.communicate(timeout=30)
    except subprocess.TimeoutExpired as late:
        # Python drops a Ctrl-C that falls into a weak reference's callback, of which torch has many, and says so; then,
        # and only then, a person presses it again.
        if b"Exception ignored in" not in (late.stderr or b""):
            raise
        os.killpg(demo.pid, number)
        _, said = demo.communicate(timeout=30)
        said = said.rpartition("KeyboardInterrupt")[2]

    assert demo.returncode in (130, -number), said
    assert "Traceback" not in said
    assert_nothing_is_left(own_home, ports)


def addresses() -> list[str]:
    """This machine's addresses other than loopback's and link-local ones."""
    found = [
        a.address
        for card in psutil.net_if_addrs().values()
        for a in card
        if a.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return [a for a in found if not a.startswith(("127.", "::1", "fe80"))]


def test_no_port_answers_at_another_address_of_the_machine(served: Cluster, settings: Settings) -> None:
    ports = {port for _, port in listening(ours(settings.home))}
    assert {served.http_port, served.grpc_port} <= ports
    assert len(ports) > 15

    reachable = []
    for address in addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            with socket.socket(family) as probe:
                probe.settimeout(0.5)
                if probe.connect_ex((address, port)) == 0:
                    reachable.append((address, port))

    assert addresses(), "this machine has no other address: nothing is proven"
    assert reachable == []


def test_every_listening_port_is_bound_to_loopback(served: Cluster, settings: Settings) -> None:
    bound = listening(ours(settings.home))

    assert {ip.removeprefix("::ffff:") for ip, _ in bound} == {"127.0.0.1"}


def test_secrets_are_their_owners_alone(served: Cluster, settings: Settings) -> None:
    folder = settings.home / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.name: f.stat().st_mode & 0o777 for f in folder.iterdir()} == {"admin_key": 0o600, "ray_token": 0o600}
    assert temp_dir(settings.home).stat().st_mode & 0o777 == 0o700


def test_the_admin_key_is_made_once(shoal: Shoal, served: Cluster, settings: Settings) -> None:
    before = (settings.home / "secrets" / "admin_key").read_text()

    assert shoal("init").returncode == 0
    assert shoal("up").returncode == 0

    assert (settings.home / "secrets" / "admin_key").read_text() == before


def test_no_key_is_readable_in_serves_configuration(served: Cluster, settings: Settings) -> None:
    from cluster.local import secrets
    from tests.conftest import fetch_applications

    shown = json.dumps(fetch_applications(settings, served))

    assert secrets.read_secret(settings.home, secrets.ADMIN_KEY) not in shown


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = shoal_for(tmp_path)("up", env={"SHOAL_HTTP_PORT": str(port)})

    assert done.returncode == 2
    assert done.stderr == (
        f"error: port {port} on 127.0.0.1 is in use (Address already in use); set SHOAL_HTTP_PORT to another, or 0\n"
    )
