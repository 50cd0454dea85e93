"""Canaries: values that must not be found anywhere, and where a cluster could have left them."""

import base64
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import httpx
import psutil

from cluster.local import processes
from cluster.local.running_cluster import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from tests.conftest import ShoalCli

MIN_BYTES = 12
"""A shorter canary, or a part of its base64, could be found by chance."""


def list_forms(canary: bytes) -> set[bytes]:
    """As it is, in hexadecimal, percent-encoded, as a repr, and the part of its base64 that every offset shares."""
    assert len(canary) >= MIN_BYTES
    forms = {canary, canary.hex().encode(), canary.hex().upper().encode(), quote(canary).encode()}
    forms.add(repr(canary)[2:-1].encode())
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + canary).rstrip(b"=")
        # What depends on neighbors is left out.
        forms.add(encoded[(0, 2, 3)[offset] + (offset > 0) : -2])
    return forms


def find_canaries(contents: Iterable[tuple[str, bytes]], canaries: Iterable[bytes]) -> list[str]:
    """Return where which canary is."""
    forms = {canary: list_forms(canary) for canary in canaries}
    return [
        f"{canary!r} in {place}"
        for place, content in contents
        for canary, each in forms.items()
        if any(form in content for form in each)
    ]


def read_files(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Files of SHOAL_HOME and of the cluster's temp dir: databases, bundles, logs, HAProxy's, the GCS's, TMPDIR."""
    for folder in (settings.home, temp_dir(settings.home)):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                yield str(file), file.read_bytes()


def list_owned(settings: Settings) -> list[psutil.Process]:
    """Every process of the cluster."""
    return processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))


def read_command_lines(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """What `ps` shows to everybody."""
    for process in list_owned(settings):
        try:
            yield f"command line of {process.pid}", " ".join([process.name(), *process.cmdline()]).encode()
        except psutil.NoSuchProcess:
            continue


def list_listening(process: psutil.Process) -> list[tuple[str, int]]:
    """Address and port of each TCP socket that a process listens on."""
    listening = [each.laddr for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return [(address.ip.removeprefix("::ffff:"), address.port) for address in listening]


def read_metrics(settings: Settings, key: str, cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    """/metrics of every process that answers HTTP, and the edge's, which has those of replicas and HAProxy."""
    headers = {"Authorization": f"Bearer {key}"}
    yield "/metrics", httpx.get(f"{cluster.url}/metrics", headers=headers, trust_env=False, timeout=30).content
    for process in list_owned(settings):
        for host, port in list_listening(process):
            try:
                response = httpx.get(f"http://{host}:{port}/metrics", trust_env=False, timeout=5)
                yield f"/metrics of {process.name()}", response.content
            except httpx.HTTPError:
                continue


def read_logs(shoal: ShoalCli, *names: str) -> Iterator[tuple[str, bytes]]:
    """What `shoal logs` shows."""
    for name in names:
        result = shoal("logs", name, "-n", "10000")
        yield f"shoal logs {name}", (result.stdout + result.stderr).encode()


def send_and_leave(address: tuple[str, int], request: bytes) -> None:
    """Send a part of a request, and close the connection."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)


def hide_in_image(png: bytes, canary: bytes) -> bytes:
    """A PNG with a text chunk, which readers skip."""
    chunk = b"tEXt" + b"Comment\x00" + canary
    return png[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
