"""The Python client on the machine of its cluster, and whom it sends this machine's key."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.running_cluster import Cluster, write_record
from cluster.local.secrets import ADMIN_KEY, ensure_secret
from deployments.client import AsyncClient, Client
from deployments.errors import ConnectionFailed
from deployments.server.asgi import Scope
from tests.deployments.local_server import Reply, make_app, run_server
from training.errors import UserError
from training.registry.process_identity import ProcessIdentity


class Service:
    """A server that records the credentials of each request."""

    def __init__(self) -> None:
        self.credentials: list[str] = []
        self.url = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def handle(self, path: str, body: bytes, scope: Scope) -> Reply:
        self.credentials.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        return 200, b'{"predictions": [1]}', []


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    with run_server(make_app(service.handle)) as service.url:
        yield service


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path))
    return tmp_path


def record_cluster(home: Path, port: int, head: ProcessIdentity | None = None, host: str = "127.0.0.1") -> None:
    write_record(home, Cluster(1, port, 2, 3, host, {}, head=str(head or ProcessIdentity.current())))


def test_without_arguments_it_calls_this_machines_cluster_with_its_admin_key(home: Path, service: Service) -> None:
    with pytest.raises(UserError, match=r"no cluster runs from .*`shoal up`"):
        Client()
    record_cluster(home, service.port)
    with pytest.raises(UserError, match=r"no API key was given, and .*admin_key cannot be read"):
        Client()
    key = ensure_secret(home, ADMIN_KEY)
    for url in (None, service.url, service.url + "/", service.url.replace("127.0.0.1", "LocalHost")):
        with Client(url) as client:
            client.predict("flowers", [1])

    assert service.credentials == [f"Bearer {key}"] * 4


def test_nobody_but_this_machines_cluster_gets_its_admin_key(home: Path, service: Service) -> None:
    ensure_secret(home, ADMIN_KEY)
    with pytest.raises(UserError, match=r"no API key was given for http://127\.0\.0\.1:\d+; give one"):
        Client(service.url)
    record_cluster(home, service.port + 1)
    for url in ("http://elsewhere", "https://127.0.0.1", f"https://127.0.0.1:{service.port + 1}", service.url):
        for kind in (Client, AsyncClient):
            with pytest.raises(UserError, match="no API key was given for"):
                kind(url)

    assert service.credentials == []


def test_what_listens_on_the_same_port_of_another_address_gets_no_key(home: Path, service: Service) -> None:
    ensure_secret(home, ADMIN_KEY)
    record_cluster(home, service.port)
    for host in ("127.0.0.2", "[::1]", "0.0.0.0", "127.1.0.1"):
        with pytest.raises(UserError, match="no API key was given for"):
            Client(f"http://{host}:{service.port}")
    # As where it listens on all addresses, of which it has recorded one.
    record_cluster(home, service.port, host="192.0.2.1")
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(UserError, match="no API key was given for"):
            Client(f"http://{host}:{service.port}")


def test_a_name_of_several_addresses_is_called_at_the_clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_secret(home, ADMIN_KEY)
    record_cluster(home, 8000)

    assert Client("http://localhost:8000/base/")._core.base_url == "http://127.0.0.1:8000/base"
    assert Client("http://localhost:8000", "k")._core.base_url == "http://localhost:8000"
    monkeypatch.setattr("deployments.client.local._resolve", lambda host: {"::1"})
    with pytest.raises(UserError, match="no API key was given for"):
        Client("http://localhost:8000")


def test_what_listens_on_the_port_of_a_cluster_that_ended_gets_no_key(home: Path, service: Service) -> None:
    ensure_secret(home, ADMIN_KEY)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record_cluster(home, service.port, ProcessIdentity.of(process.pid))
    process.communicate(b"\n")

    for url in (None, service.url):
        with pytest.raises(UserError, match=r"no cluster runs|no API key was given"):
            Client(url)

    assert service.credentials == []


@pytest.mark.parametrize("key", ["shoal-1234\nx", "two words", "naïve-1234", "", "\x00-1234"])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UserError, match=rf"the API key of {len(key)} characters") as error:
        Client("http://127.0.0.1:1", key)

    assert "1234" not in str(error.value)


def test_a_key_with_the_line_break_of_its_file_is_a_key(service: Service) -> None:
    with Client(service.url, "shoal-1234\n") as client:
        client.predict("flowers", [1])

    assert service.credentials == ["Bearer shoal-1234"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("elsewhere:8000", "is not http://host:port"),
        ("ftp://elsewhere", "is not http://host:port"),
        ("http://", "is not http://host:port"),
        ("http://me:hidden@elsewhere", "has a user and a password"),
        ("http://elsewhere/?key=1", r"without \? and #"),
        ("http://elsewhere:port", "is not a URL"),
    ],
)
def test_another_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Client(url, "k")

    assert "hidden" not in str(error.value)


def test_a_scheme_in_capitals_is_verified_all_the_same(service: Service) -> None:
    with Client(f"HTTPS://127.0.0.1:{service.port}", "k", retries=0) as client:
        assert client._core.base_url == f"https://127.0.0.1:{service.port}"
        # Without verification the transport's context would accept any certificate.
        assert client._transport._pool._ssl_context.check_hostname
        with contextlib.suppress(ConnectionFailed):
            client.models()

    assert service.credentials == []
