"""A cluster with TLS for its callers, and mutual TLS between edge and replicas."""

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import trustme

from cluster.local import processes
from cluster.local.running_cluster import cluster_id, temp_dir
from cluster.settings import Settings
from deployments.client import Client
from deployments.protocols.grpc import messages
from tests.conftest import ShoalCli, make_shoal_cli, wait_until
from tests.small_bundles import save_table

ROW = [5.1, 3.5, 1.4, 0.2]


@dataclass
class TlsCluster:
    """A cluster of its own, with a model; `cert` and `key` are what its edge serves."""

    home: Path
    shoal: ShoalCli
    environment: dict[str, str]
    cert: Path
    key: Path
    url: str
    grpc_address: str


def write_certificate(cert: trustme.LeafCert, folder: Path, name: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(cert.private_key_pem.bytes())
    return chain, key


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[TlsCluster]:
    folder = tmp_path_factory.mktemp("tls")
    home = folder / "home"
    cert, key = write_certificate(authority.issue_cert("localhost"), folder, "edge")
    node_authority = trustme.CA()
    node_cert, node_key = write_certificate(node_authority.issue_cert("node"), folder, "node")
    node_authority.cert_pem.write_to_path(folder / "node-ca.pem")
    environment = {
        "SHOAL_TLS_CERT": str(cert),
        "SHOAL_TLS_KEY": str(key),
        "SHOAL_EDGE__NODE_TLS_CA": str(folder / "node-ca.pem"),
        "SHOAL_EDGE__NODE_TLS_CERT": str(node_cert),
        "SHOAL_EDGE__NODE_TLS_KEY": str(node_key),
    }
    shoal = make_shoal_cli(home)
    try:
        started = shoal("up", env=environment)
        assert started.returncode == 0, started.stderr
        lines = dict(line.split(": ", 1) for line in started.stdout.splitlines())
        save_table(folder / "flowers")
        assert shoal("models", "import", str(folder / "flowers"), env=environment).returncode == 0
        deployed = shoal("deploy", "flowers", env=environment)
        assert deployed.returncode == 0, deployed.stderr
        yield TlsCluster(home, shoal, environment, cert, key, lines["up"], lines["grpc"])
    finally:
        shoal("down", env=environment)


@pytest.fixture
def admin_key(tls: TlsCluster) -> str:
    return (tls.home / "secrets" / "admin_key").read_text()


def test_http_is_https_and_answers_whoever_trusts_the_authority(
    tls: TlsCluster, authority: trustme.CA, admin_key: str
) -> None:
    assert tls.url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = httpx.URL(tls.url).port

    with Client(f"https://localhost:{port}", admin_key, verify=context) as client:
        assert client.predict("flowers", [ROW])[0]["label"] in ("a", "b", "c")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{port}/v2/health/live", trust_env=False)
    # Plain HTTP has no answer there.
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{port}/v2/health/live", trust_env=False)


def test_this_machines_commands_and_client_know_its_certificate(
    tls: TlsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = tls.shoal("predict", "flowers", f'{{"inputs": [{ROW}]}}', env=tls.environment)
    assert predicted.returncode == 0, predicted.stderr

    monkeypatch.setenv("SHOAL_HOME", str(tls.home))
    with Client() as client:
        assert len(client.models()) == 1


def test_grpc_is_over_tls(tls: TlsCluster, authority: trustme.CA, admin_key: str, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    credentials = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
    with grpc.secure_channel(tls.grpc_address.replace("127.0.0.1", "localhost"), credentials) as channel:
        infer = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelMetadata",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.ModelMetadataResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {admin_key}"),)
        response = infer(messages.ModelMetadataRequest(name="flowers"), metadata=metadata, timeout=30)
    assert response.name == "flowers"


def test_old_versions_of_tls_are_refused(tls: TlsCluster) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    port = httpx.URL(tls.url).port
    with socket.create_connection(("127.0.0.1", port or 443)) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection)


def test_replicas_take_connections_of_the_clusters_own_nodes_alone(tls: TlsCluster) -> None:
    owned = processes.find_owned(cluster_id(tls.home), temp_dir(tls.home))
    (replica,) = [each for each in owned if each.cmdline()[:1] == ["ray::ServeReplica:flowers:replica"]]
    listening = [each.laddr for each in replica.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    refused = []
    for address in listening:
        try:
            host = address.ip.removeprefix("::ffff:")
            httpx.get(f"https://{host}:{address.port}/", verify=context, trust_env=False, timeout=5)
        except httpx.HTTPError as error:
            refused.append(str(error))
    assert len(refused) == len(listening)
    # Ray's own ports speak no TLS; the server's does, and ends a connection without a certificate.
    assert [each for each in refused if "WRONG_VERSION_NUMBER" not in each], refused


def test_a_renewed_certificate_is_served_without_a_restart(tls: TlsCluster, authority: trustme.CA) -> None:
    port = httpx.URL(tls.url).port or 443

    def fetch_certificate() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    before = fetch_certificate()
    write_certificate(authority.issue_cert("localhost"), tls.cert.parent, "edge")
    renewed_s = time.monotonic()

    assert wait_until(lambda: fetch_certificate() != before, 5)
    assert time.monotonic() - renewed_s < 3
    assert fetch_certificate().strip() in tls.cert.read_text()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SHOAL_HOST": "0.0.0.0"}, "would cross the network in plain HTTP"),
        ({"SHOAL_TLS_CERT": "cert.pem"}, "belong together"),
        ({"SHOAL_TLS_CERT": "no.pem", "SHOAL_TLS_KEY": "no.key"}, "no.pem is no file"),
    ],
)
def test_a_cluster_without_the_tls_that_it_needs_does_not_start(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    result = make_shoal_cli(tmp_path / "home")("up", env=environment)

    assert result.returncode == 2
    assert message in result.stderr


def test_settings_say_that_the_files_of_node_tls_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        Settings(home=tmp_path, edge={"node_tls_ca": "ca.pem"})  # type: ignore[arg-type]
