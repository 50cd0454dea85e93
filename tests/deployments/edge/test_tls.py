"""TLS at the edge: HTTP/1.1 and HTTP/2, versions, a renewed certificate."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from tests.deployments.edge.certificates import Certificates
from tests.deployments.edge.local_edge import AUTHORIZATION, LocalEdge, run_edge

pytestmark = pytest.mark.anyio
PATH = "/v2/models/flowers/infer"


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates.make()


@pytest.fixture(scope="module")
async def edge(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, certificates: Certificates
) -> AsyncIterator[LocalEdge]:
    async with run_edge(tmp_path_factory.mktemp("tls"), certificate=certificates.issue()[0]) as edge:
        yield edge


def open_https(edge: LocalEdge, certificates: Certificates, **options: object) -> httpx.AsyncClient:
    base_url = f"https://127.0.0.1:{edge.http_port}"
    return edge.open_http(base_url=base_url, verify=certificates.build_context(), **options)


async def connect(port: int, context: ssl.SSLContext, *protocols: str) -> ssl.SSLObject:
    """Shake hands; returns what was agreed on."""
    if protocols:
        context.set_alpn_protocols(list(protocols))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    return connection


@pytest.mark.parametrize("http2", [False, True])
async def test_requests_are_answered_over_tls(edge: LocalEdge, certificates: Certificates, http2: bool) -> None:
    async with open_https(edge, certificates, http1=not http2, http2=http2) as http:
        responses = await asyncio.gather(*(http.post(PATH, content=b"x" * 100_000) for _ in range(10)))
        refused = await http.post(PATH, headers={"authorization": "Bearer x", "x-shoal-caller": "admin"})

    assert {(each.status_code, each.json()["bytes"]) for each in responses} == {(200, 100_000)}
    assert {each.http_version for each in (*responses, refused)} == {"HTTP/2" if http2 else "HTTP/1.1"}
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="shoal"')


async def test_a_caller_that_does_not_trust_the_certificate_sends_nothing(edge: LocalEdge) -> None:
    async with edge.open_http(base_url=f"https://127.0.0.1:{edge.http_port}") as http:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await http.get(PATH)


async def test_plain_http_gets_no_answer_where_there_is_tls(edge: LocalEdge) -> None:
    async with edge.open_http() as http:
        with pytest.raises(httpx.HTTPError):
            await http.get(PATH)


@pytest.mark.parametrize("port", ["http_port", "grpc_port"])
async def test_tls_1_3_is_chosen_and_1_2_is_the_oldest(edge: LocalEdge, certificates: Certificates, port: str) -> None:
    number = getattr(edge, port)
    newest = await connect(number, certificates.build_context(), "h2")
    oldest = await connect(number, certificates.build_context(maximum_version=ssl.TLSVersion.TLSv1_2), "h2")

    assert (newest.version(), oldest.version()) == ("TLSv1.3", "TLSv1.2")
    cipher = oldest.cipher()
    assert cipher
    assert cipher[0].startswith("ECDHE-")
    assert cipher[0].endswith(("GCM-SHA256", "GCM-SHA384", "CHACHA20-POLY1305"))
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context = certificates.build_context(
            minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1
        )
    # Debian's OpenSSL would refuse TLS 1.1 by itself.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(number, context, "h2")


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"])
async def test_a_weak_cipher_is_refused(edge: LocalEdge, certificates: Certificates, cipher: str) -> None:
    context = certificates.build_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(edge.http_port, context)


async def test_the_protocol_is_agreed_on(edge: LocalEdge, certificates: Certificates) -> None:
    async def agree(port: int, *protocols: str) -> str | None:
        return (await connect(port, certificates.build_context(), *protocols)).selected_alpn_protocol()

    assert await agree(edge.http_port, "h2", "http/1.1") == "h2"
    assert await agree(edge.http_port, "http/1.1") == "http/1.1"
    assert await agree(edge.http_port) is None
    assert await agree(edge.grpc_port, "h2") == "h2"


async def test_grpc_calls_without_a_key_are_refused_over_tls(edge: LocalEdge, certificates: Certificates) -> None:
    credentials = grpc.ssl_channel_credentials(certificates.root)
    async with grpc.aio.secure_channel(f"localhost:{edge.grpc_port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"")

    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def fetch_serial(port: int, certificates: Certificates) -> str:
    certificate = (await connect(port, certificates.build_context(), "h2")).getpeercert(binary_form=True)
    assert certificate
    return certificate.hex()


async def test_a_renewed_certificate_is_served_without_a_reload(folder: Path, certificates: Certificates) -> None:
    (first, first_der), (second, second_der) = certificates.issue(), certificates.issue()
    async with run_edge(folder, certificate=first) as edge, open_https(edge, certificates) as http:
        pids = edge.pids
        assert (await http.post(PATH)).status_code == 200
        assert await fetch_serial(edge.http_port, certificates) == first_der

        await edge.directory.tell(certificate=second)

        assert [await fetch_serial(port, certificates) for port in (edge.http_port, edge.grpc_port)] == [second_der] * 2
        # Connections go on.
        assert (await http.post(PATH)).status_code == 200
        assert edge.pids == pids
        # And after a reload.
        await edge.add("tulips")
        assert await fetch_serial(edge.http_port, certificates) == second_der


async def test_certificate_and_key_are_closed_to_other_users(folder: Path, certificates: Certificates) -> None:
    async with run_edge(folder, certificate=certificates.issue()[0]):
        files = [file for file in (folder / "edge").iterdir() if file.is_file() and b"PRIVATE KEY" in file.read_bytes()]

        assert files
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_plain_connections_become_encrypted_ones_by_a_reload(folder: Path, certificates: Certificates) -> None:
    async with run_edge(folder) as edge:
        async with edge.open_http() as http:
            assert (await http.get(PATH)).status_code == 200
        await edge.directory.tell(certificate=certificates.issue()[0])
        async with open_https(edge, certificates, headers=AUTHORIZATION) as http:
            assert (await http.get(PATH)).status_code == 200
