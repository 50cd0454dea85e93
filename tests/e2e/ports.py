"""Ports of a running cluster: who listens where, and what one answers to whoever has no key, token or secret."""

from collections import Counter
from dataclasses import dataclass

import grpc
import httpx
import psutil

KEY, TOKEN, SECRET, NOTHING = "API key", "Ray's token", "edge's secret", "nothing"
"""What a port asks for."""

# One of each service of Ray, and what each would do.
METHODS = (
    "/ray.rpc.InternalKVGcsService/InternalKVPut",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.RayletDriver/Init",
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.rpc.ReporterService/GetTraceback",
    "/inference.GRPCInferenceService/ModelInfer",
)
# Paths of Ray's HTTP servers, and what each would do.
PATHS = (("GET", "/metrics"), ("POST", "/api/jobs/"), ("PUT", "/api/serve/applications/"), ("POST", "/get_or_create"))

# A process by what its title holds; the first that fits.
KINDS = {
    "haproxy": "haproxy",
    "gcs_server": "gcs_server",
    "autoscaler/_private/monitor": "monitor.py",
    "ray.util.client.server": "ray.util.client.server",
    "dashboard/dashboard.py": "dashboard.py",
    "ray-dashboard-": "ray-dashboard-*",
    "raylet": "raylet",
    "ray::DashboardAgent": "ray::DashboardAgent",
    "ray::RuntimeEnvAgent": "ray::RuntimeEnvAgent",
    "ray::ServeReplica:": "ray::ServeReplica:*",
    "ray::": "ray::*",
}


@dataclass(frozen=True, order=True)
class Port:
    """One port that a process listens on."""

    pid: int
    kind: str
    host: str
    port: int


def get_kind(process: psutil.Process) -> str:
    """A process's name in the table."""
    title = f"{process.name()} {' '.join(process.cmdline())}"
    return next((kind for text, kind in KINDS.items() if text in title), title)


def find_ports(owned: list[psutil.Process]) -> list[Port]:
    """Every port of TCP that the processes listen on, and every one of UDP."""
    found = []
    for process in owned:
        try:
            kind, connections = get_kind(process), process.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        for each in connections:
            if each.status == psutil.CONN_LISTEN or each.type.name == "SOCK_DGRAM":
                found.append(Port(process.pid, kind, each.laddr.ip.removeprefix("::ffff:"), each.laddr.port))
    return found


def probe(port: Port, host: str, **headers: str) -> str:
    """What a port asks for, of whoever comes with these headers alone.

    Raises:
        AssertionError: it does something for him.
    """
    answers: Counter[str] = Counter()
    for method, path in PATHS:
        answer = _probe_http(f"{host}:{port.port}", method, path, headers)
        if answer is None:
            break
        answers[answer] += 1
    else:
        # Metrics are read, and nothing is done.
        assert len(answers) == 1, (port, answers)
        return next(iter(answers))
    with grpc.insecure_channel(f"{host}:{port.port}") as channel:
        for name in METHODS:
            call = channel.unary_unary(name)
            try:
                call(b"", metadata=tuple(headers.items()), timeout=5)
            except grpc.RpcError as error:
                code, details = error.code(), str(error.details())
                if code == grpc.StatusCode.UNAUTHENTICATED:
                    answers[KEY if "API key" in details else TOKEN] += 1
                elif code == grpc.StatusCode.PERMISSION_DENIED:
                    answers[SECRET] += 1
                else:
                    assert code == grpc.StatusCode.UNIMPLEMENTED, (port, name, code, details)
            else:
                raise AssertionError(f"{port} answers {name}")
    assert len(answers) == 1, (port, answers)
    return next(iter(answers))


def _probe_http(address: str, method: str, path: str, headers: dict[str, str]) -> str | None:
    """What an HTTP server asks for; None for a port of gRPC."""
    response = None
    for scheme in ("http", "https"):
        try:
            response = httpx.request(
                method, f"{scheme}://{address}{path}", headers=headers, verify=False, trust_env=False, timeout=10
            )
        except httpx.HTTPError:
            continue
        break
    if response is None:
        return None
    if response.status_code == 403 and "not_from_edge" in response.text:
        return SECRET
    if response.status_code in (401, 403):
        return KEY if "www-authenticate" in response.headers else TOKEN
    # Exporters of metrics answer any path, and any method or GET alone.
    is_metrics = response.status_code == 200 and "# HELP " in response.text
    assert is_metrics or response.status_code in (404, 405), (address, method, path, response.status_code)
    return NOTHING
