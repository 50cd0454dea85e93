"""Mutual TLS between the edge and its replicas, as an option."""

import ssl
from pathlib import Path

import grpc
import httpx
import pytest

from deployments.edge.node_tls import add_grpc_port, build_server_context
from deployments.edge.state import CONTROL, GRPC, Member
from deployments.protocols.grpc import messages
from deployments.server.http_server import HttpServer
from deployments.settings import EdgeSettings, ServingSettings
from tests.deployments.edge.certificates import Certificates
from tests.deployments.edge.local_edge import KEY, LocalEdge, build_describing_app, build_route, run_edge

pytestmark = pytest.mark.anyio
METHOD = f"/{messages.SERVICE_NAME}/ServerLive"


def build_settings(folder: Path, certificates: Certificates) -> ServingSettings:
    issued = certificates.ca.issue_cert("node")
    ca, cert, key = (folder / name for name in ("ca.pem", "node.pem", "node_key.pem"))
    ca.write_bytes(certificates.root)
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    edge = EdgeSettings(node_tls_ca=str(ca), node_tls_cert=str(cert), node_tls_key=str(key))
    return ServingSettings(home=folder, edge=edge)


async def add_tls_replica(edge: LocalEdge, settings: ServingSettings) -> int:
    """Let a replica join that takes connections as these settings say."""
    server = HttpServer(build_describing_app("encrypted"))
    port = await server.start("127.0.0.1", tls=build_server_context(settings.edge))
    member = Member(f"tls-{port}", build_route("flowers"), f"127.0.0.1:{port}")
    await edge.directory.tell(members=(*edge.directory.state.members, member))
    return port


async def test_the_edge_and_a_replica_show_each_other_certificates(folder: Path) -> None:
    settings = build_settings(folder, Certificates.make())
    async with run_edge(folder, names=(), settings=settings) as edge, edge.open_http() as http:
        port = await add_tls_replica(edge, settings)

        response = await http.post("/v2/models/flowers/infer", content=b"x" * 100_000)
        assert (response.status_code, response.json()["bytes"]) == (200, 100_000)

        # Without a certificate of the cluster, nobody else gets so far.
        with pytest.raises(httpx.HTTPError):
            await http.get(f"http://127.0.0.1:{port}/")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with httpx.AsyncClient(verify=context, trust_env=False) as stranger:
            with pytest.raises(httpx.HTTPError):
                await stranger.get(f"https://127.0.0.1:{port}/")


async def test_a_replica_of_another_authority_gets_no_request(folder: Path) -> None:
    (folder / "other").mkdir()
    settings = build_settings(folder, Certificates.make())
    others = build_settings(folder / "other", Certificates.make())
    async with run_edge(folder, names=(), settings=settings) as edge, edge.open_http() as http:
        await add_tls_replica(edge, others)

        assert (await http.get("/v2/models/flowers")).status_code == 503


async def test_grpc_calls_cross_it_too(folder: Path) -> None:
    settings = build_settings(folder, Certificates.make())
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(messages.SERVICE_NAME, {"ServerLive": handler}),)
    )
    port = add_grpc_port(server, "127.0.0.1", settings.edge)
    await server.start()
    member = Member("gateway", build_route(GRPC), f"127.0.0.1:{port}", protocol="grpc")
    async with run_edge(folder, names=(), settings=settings) as edge:
        await edge.directory.tell(members=(member,))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
            metadata = (("authorization", f"Bearer {KEY}"),)
            assert await channel.unary_unary(METHOD)(b"x", metadata=metadata, timeout=10) == b"x"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(METHOD)(b"x", timeout=2)
    await server.stop(None)


async def echo(body: bytes, context: object) -> bytes:
    return body


async def test_without_the_setting_connections_are_plain(folder: Path) -> None:
    assert build_server_context(EdgeSettings()) is None
    async with run_edge(folder, names=(CONTROL,)) as edge, edge.open_http() as http:
        assert (await http.get("/v2")).status_code == 200
