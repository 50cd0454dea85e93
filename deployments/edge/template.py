"""HAProxy's configuration of an edge: what haproxy.cfg.j2 needs, from settings and the directory's state.

Deploy walk: edge.py -> [template.py] -> haproxy.cfg.j2
"""

import base64
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from deployments.access.caller import SEPARATOR
from deployments.edge.haproxy import write_private
from deployments.edge.node_tls import get_tls_options, read_client_certificate
from deployments.edge.splits import HEADER_PREFIX
from deployments.edge.state import (
    CANARY_SUFFIX,
    CONTROL,
    GRPC,
    MIN_SILENCE_S,
    SPLIT_BUCKETS,
    EdgeState,
    Listen,
    Member,
    Route,
)
from deployments.settings import ServingSettings

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
WATCH_NODE, WATCH_KEYS, CLOSE_SESSIONS, VERIFY_TOKEN = (
    Path(__file__).with_name(f"{name}.lua") for name in ("watch_node", "watch_keys", "close_sessions", "verify_token")
)

# A replica that is gone is out after one refused connection, or two checks without an answer: one that is stopped still
# takes connections. What it has not answered is then sent elsewhere.
SERVER_OPTIONS = "check inter 300ms fastinter 100ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down"
BASIC_CHALLENGE = 'Basic realm="shoal (any user name, the API key as password)", charset="UTF-8"'
BEARER_CHALLENGE = 'Bearer realm="shoal"'
# Before a path is known, every error has Shoal's own form.
ERROR = '{{"error":{{"code":"{code}","message":"{message}","request_id":{request_id}}}}}'
OIP_ERROR = '{"error":"%[var(txn.problem)]"}'
PUBLIC_BODY_ERROR = '{"error":"this path takes no body; send the request without one"}'
# What requests are split by; all else is a header's name. deployments.edge.splits has the same rule.
SPLIT_SAMPLES = {"caller": "var(txn.caller)", "request": "var(txn.id)"}
# Fields of a request's header.
MAX_FIELDS = 256
# Statuses that HAProxy makes itself. A request that it cannot read gets its own page, for which 2.8 has no setting.
ERRORS = {
    400: ("bad_request", "the request is not valid HTTP"),
    408: ("body_timeout", "the request was not complete in time; send it at once"),
    500: ("internal", "internal error of the service; it has been logged"),
    502: ("bad_gateway", "a replica broke its response off; send the request again"),
    503: ("unavailable", "no replica is available; try again shortly"),
    504: ("deadline_exceeded", "no response in time; try again, or send less"),
}
# Tokens of one source that may be refused in 10 seconds; its others are not verified then.
MAX_REFUSED_TOKENS = 50
# What a token is answered that is not simply unknown: status, code and header; gRPC's codes are PERMISSION_DENIED,
# RESOURCE_EXHAUSTED and UNAVAILABLE.
TOKEN_ERRORS = (
    (403, "forbidden", ""),
    (429, "too_many_tokens", " hdr retry-after 10"),
    (503, "unavailable", " hdr retry-after 1"),
)
TOKEN_GRPC_CODES = ((403, 7), (429, 8), (503, 14))
# Each connection takes two file descriptors, its own and a replica's; the rest are for checks, sockets and files.
DESCRIPTORS_PER_CONNECTION, RESERVED_DESCRIPTORS = 2, 400


@dataclass(frozen=True)
class Files:
    """The files that a configuration names: of all processes in a folder, but for each one's admin socket.

    metrics_address is where the edge's process answers for /metrics.
    """

    folder: Path
    admin_socket: Path
    metrics_address: str = "127.0.0.1:1"

    @property
    def exporter_socket(self) -> Path:
        """Where HAProxy tells its own metrics."""
        return self.folder / "exporter.sock"

    @property
    def keys(self) -> Path:
        """The map of keys."""
        return self.folder / "keys.map"

    @property
    def tokens(self) -> Path:
        """The map of tokens: HAProxy's own, empty at its start."""
        return self.folder / "tokens.map"

    @property
    def tokens_socket(self) -> Path:
        """Where the edge's process verifies tokens."""
        return self.folder / "tokens.sock"

    @property
    def splits(self) -> Path:
        """The map of canaries' weights."""
        return self.folder / "splits.map"

    @property
    def certificate(self) -> Path:
        """What callers see."""
        return self.folder / "certificate.pem"

    @property
    def node_certificate(self) -> Path:
        """What replicas see."""
        return self.folder / "node_certificate.pem"


def render_config(state: EdgeState, settings: ServingSettings, listen: Listen, files: Files) -> str:
    """Render the configuration of HAProxy."""
    # Callers never see what is rendered; there is no HTML in it.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # nosec B701
    edge = settings.edge
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if descriptors == resource.RLIM_INFINITY:
        descriptors = 1_000_000
    return environment.from_string(TEMPLATE.read_text()).render(
        threads=max(1, min(4, (os.cpu_count() or 1) // 4)),
        max_connections=min(edge.max_connections, (descriptors - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION),
        max_connections_per_source=edge.max_connections_per_source,
        admin_socket=files.admin_socket,
        keys_file=files.keys,
        pepper=base64.b64encode(bytes.fromhex(state.pepper)).decode(),
        separator=SEPARATOR,
        tokens_file=files.tokens if settings.oidc_issuer else "",
        tokens_socket=files.tokens_socket,
        verify_token_script=VERIFY_TOKEN,
        max_refused_tokens=MAX_REFUSED_TOKENS,
        token_errors=TOKEN_ERRORS,
        token_grpc_codes=TOKEN_GRPC_CODES,
        splits=[
            (split.name, SPLIT_SAMPLES.get(split.by, f"req.fhdr({split.by.removeprefix(HEADER_PREFIX)})"))
            for split in state.splits
        ],
        splits_file=files.splits,
        split_buckets=SPLIT_BUCKETS,
        canary_suffix=CANARY_SUFFIX,
        exporter_socket=files.exporter_socket,
        metrics_address=files.metrics_address,
        max_fields=MAX_FIELDS,
        watch_node=WATCH_NODE,
        watch_keys=WATCH_KEYS,
        close_sessions=CLOSE_SESSIONS,
        access_log=edge.access_log,
        max_traces_per_s=settings.tracing.max_traces_per_s,
        sample_millionths=round(1e6 * settings.tracing.sample_ratio) if settings.tracing.endpoint else None,
        header_timeout_s=round(edge.request_header_timeout_s),
        client_timeout_s=max([MIN_SILENCE_S, *(route.max_silence_s for route in state.routes)]),
        hard_stop_s=round(settings.limits.stream_timeout_s + settings.limits.request_timeout_s),
        host=listen.host,
        http_port=listen.http_port,
        grpc_port=listen.grpc_port,
        tls=f" ssl crt {files.certificate}" if state.certificate else "",
        origins=edge.cors_origins,
        secret=state.secret,
        basic_challenge=BASIC_CHALLENGE,
        bearer_challenge=BEARER_CHALLENGE,
        error=lambda code: ERROR.format(code=code, message="%[var(txn.problem)]", request_id='"%[var(txn.id)]"'),
        oip_error=OIP_ERROR,
        public_body_error=PUBLIC_BODY_ERROR,
        errors={status: _render_error(status, *error) for status, error in ERRORS.items()},
        describe_server=lambda member: describe_server(member, settings, files),
        control=list_members(state, CONTROL),
        gateways=list_members(state, GRPC),
        models={route: list_members(state, route.name) for route in list_model_routes(state)},
    )


def write_files(files: Files, state: EdgeState, settings: ServingSettings) -> None:
    """Write the files that a configuration names."""
    write_private(files.keys, "".join(f"{digest} {name}\n" for digest, name in state.keys.items()))
    write_private(files.splits, "".join(f"{target} {weight}\n" for target, weight in list_weights(state).items()))
    write_private(files.certificate, state.certificate)
    write_private(files.node_certificate, read_client_certificate(settings.edge))


def list_weights(state: EdgeState) -> dict[str, str]:
    """The map of weights: by a model's name, and by NAME/VERSION, which a path may name, of its canary."""
    weights = {split.name: str(split.weight) for split in state.splits}
    return weights | {f"{split.name}/{split.canary_version}": str(SPLIT_BUCKETS) for split in state.splits}


def describe_server(member: Member, settings: ServingSettings, files: Files) -> str:
    """HAProxy's address and options of a server: its Unix socket where an edge can reach it, otherwise TCP."""
    http2 = "proto h2 " if member.protocol == "grpc" else ""
    if member.local_socket and member.local_socket.is_reachable():
        return f"unix@{member.local_socket.path} {http2}{SERVER_OPTIONS}"
    tls = get_tls_options(settings.edge, files.node_certificate)
    # A gRPC server takes TLS connections that ask for HTTP/2 alone.
    return f"{member.address} {http2}{SERVER_OPTIONS}" + tls + (" alpn h2 check-alpn h2" if tls and http2 else "")


def list_members(state: EdgeState, name: str) -> list[Member]:
    """List the members of one route."""
    return [member for member in state.members if member.route.name == name]


def list_model_routes(state: EdgeState) -> list[Route]:
    """List the routes of models and pipelines: those that are deployed, and those that members join for."""
    routes = {member.route.name: member.route for member in state.members if member.route.name not in (CONTROL, GRPC)}
    routes |= {route.name: route for route in state.routes}
    return sorted(routes.values(), key=lambda route: route.name)


def _render_error(status: int, code: str, message: str) -> str:
    header = " hdr retry-after 1" if status == 503 else ""
    body = ERROR.format(code=code, message=message, request_id='"%[var(txn.id)]"')
    return f"lf-string '{body}'{header}"
