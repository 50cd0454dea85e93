"""The table of ports in SECURITY.md is what a running cluster has: each port, its address, and what it asks for."""

import re
import resource
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path

import httpx
import pytest
import trustme

from cluster.local import secrets
from cluster.local.ports import find_node_address
from cluster.local.running_cluster import Cluster, require_cluster, temp_dir
from cluster.settings import Settings
from tests.conftest import make_shoal_cli
from tests.documents import read_document
from tests.e2e.canaries import list_owned
from tests.e2e.ports import KINDS, TOKEN, Port, find_ports, probe
from tests.e2e.test_tls import write_certificate

LOOPBACK = "127.0.0.1"


def read_table() -> dict[str, Counter[str]]:
    """What each kind of process may listen on: how many ports with which protection."""
    (section,) = re.findall(r"^## Ports\n(.*?)(?=^## |\Z)", read_document("SECURITY.md"), re.MULTILINE | re.DOTALL)
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for process, number, protection in re.findall(
        r"^\| `([^`]+)` \| (\d) \| [^|]+ \| ([^|]+) \|", section, re.MULTILINE
    ):
        table[process][protection.strip()] += int(number)
    return table


def compare_with_table(ports: list[Port], host: str) -> None:
    """Ask each port what it wants: no process has more of a kind than the table says, and each line is true of one."""
    table = read_table()
    assert set(table) == set(KINDS.values())
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for (_, kind), of_process in groupby(sorted(ports), key=lambda port: (port.pid, port.kind)):
        counts = Counter(probe(port, host) for port in of_process)
        assert counts <= table[kind], (kind, counts)
        seen[kind] |= set(counts)
    # Which of the dashboard's parts listen depends on what was asked of it.
    assert seen | {"ray-dashboard-*": {TOKEN}} == {kind: set(counts) for kind, counts in table.items()}


def test_each_port_is_in_the_table_on_loopback_and_asks_for_what_the_table_says(
    serving_cluster: Cluster, settings: Settings
) -> None:
    ports = find_ports(list_owned(settings))

    assert {port.host for port in ports} == {LOOPBACK}
    compare_with_table(ports, LOOPBACK)


def test_wrong_credentials_open_no_port(serving_cluster: Cluster, settings: Settings) -> None:
    wrong = {"authorization": f"Bearer {'0' * 64}", "x-shoal-edge": "0" * 64, "x-shoal-caller": "admin"}
    for port in find_ports(list_owned(settings)):
        assert probe(port, LOOPBACK, **wrong) in read_table()[port.kind]


def test_no_process_leaves_its_memory_in_a_core_dump(serving_cluster: Cluster, settings: Settings) -> None:
    limits = [process.rlimit(resource.RLIMIT_CORE)[0] for process in list_owned(settings)]

    assert len(limits) > 10
    assert set(limits) == {0}


def test_the_files_of_a_cluster_are_its_users_alone(serving_cluster: Cluster, settings: Settings) -> None:
    for folder in (temp_dir(settings.home), settings.home / "secrets"):
        assert folder.stat().st_mode & 0o077 == 0, folder
    for file in (settings.home / "secrets").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    for process in list_owned(settings):
        sockets = [each.laddr for each in process.net_connections("unix") if each.laddr and each.laddr[0] == "/"]
        # Whoever cannot enter the folder reaches no socket in it.
        assert [each for each in sockets if not Path(each).is_relative_to(temp_dir(settings.home))] == [], process


@pytest.mark.soak
def test_on_a_network_the_same_ports_are_open_and_ask_for_the_same(tmp_path: Path) -> None:
    home, address = tmp_path / "home", find_node_address()
    cert, key = write_certificate(trustme.CA().issue_cert("localhost", address), tmp_path, "edge")
    environment = {
        "SHOAL_HOST": "0.0.0.0",
        "SHOAL_TLS_CERT": str(cert),
        "SHOAL_TLS_KEY": str(key),
        "SHOAL_ALLOW_PLAINTEXT_NODES": "true",
    }
    shoal = make_shoal_cli(home)
    settings = Settings(
        home=home, host="0.0.0.0", http_port=0, grpc_port=0, dashboard_port=0, tls_cert=str(cert), tls_key=str(key)
    )
    try:
        started = shoal("up", env=environment)
        assert started.returncode == 0, started.stderr
        cluster = require_cluster(settings)
        ports = find_ports(list_owned(settings))
        assert {port.host for port in ports} <= {"0.0.0.0", "::", LOOPBACK, address}
        reachable = [port for port in ports if port.host != LOOPBACK]
        compare_with_table([port for port in reachable if not is_grpc_edge(port, cluster)], address)
        # Nothing of the edge is plain.
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{address}:{cluster.http_port}/v2/health/live", trust_env=False)
        admin = secrets.read_secret(home, secrets.ADMIN_KEY)
        headers = {"Authorization": f"Bearer {admin}"}
        answered = httpx.get(f"{cluster.url}/v2", headers=headers, verify=False, trust_env=False)
        assert answered.status_code == 200
    finally:
        shoal("down", env=environment)


def is_grpc_edge(port: Port, cluster: Cluster) -> bool:
    """Whether it is the edge's port for gRPC, which a client without TLS cannot ask."""
    return port.port == cluster.grpc_port
