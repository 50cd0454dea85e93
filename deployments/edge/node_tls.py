"""Mutual TLS between edges and replicas, as an option: each proves to the other that the cluster's own CA signed it.

Deploy walk: replica_server.py, template.py -> [node_tls.py]
Every node has the same three files: the CA's certificate, and a certificate with its key that the CA signed. Who is
called by which address does not matter, since the CA signs for nobody else.
"""

import ssl
from pathlib import Path
from typing import Any

from deployments.settings import EdgeSettings


def build_server_context(settings: EdgeSettings) -> ssl.SSLContext | None:
    """Build what a replica's HTTP server takes connections with; None for plain ones."""
    if not settings.node_tls_ca:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(settings.node_tls_cert, settings.node_tls_key)
    context.load_verify_locations(settings.node_tls_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def build_client_context(settings: EdgeSettings) -> ssl.SSLContext | None:
    """Build what a replica calls another one with; None for plain connections."""
    if not settings.node_tls_ca:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_cert_chain(settings.node_tls_cert, settings.node_tls_key)
    context.load_verify_locations(settings.node_tls_ca)
    return context


def add_grpc_port(server: Any, address: str, settings: EdgeSettings) -> int:
    """Let a gRPC server listen on any free port of an address; returns the port."""
    import grpc

    if not settings.node_tls_ca:
        return int(server.add_insecure_port(f"{address}:0"))
    key, cert, ca = (
        Path(file).read_bytes() for file in (settings.node_tls_key, settings.node_tls_cert, settings.node_tls_ca)
    )
    credentials = grpc.ssl_server_credentials([(key, cert)], root_certificates=ca, require_client_auth=True)
    return int(server.add_secure_port(f"{address}:0", credentials))


def read_client_certificate(settings: EdgeSettings) -> str:
    """The certificate and key that an edge shows, in one PEM; empty for plain connections."""
    if not settings.node_tls_ca:
        return ""
    return "".join(Path(file).read_text() for file in (settings.node_tls_cert, settings.node_tls_key))


def get_tls_options(settings: EdgeSettings, client_certificate: Path) -> str:
    """HAProxy's options of a connection to a replica."""
    if not settings.node_tls_ca:
        return ""
    return f" ssl verify required ca-file {settings.node_tls_ca} crt {client_certificate} ssl-min-ver TLSv1.3"
