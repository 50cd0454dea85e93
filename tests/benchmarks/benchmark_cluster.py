"""A Shoal cluster for the benchmarks of serving, wrk as its client, and the CPU time that each process took.

Client, HAProxy and replica share this machine's cores, so each measurement includes the CPU time of each of them.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import psutil

from cluster.local import processes
from cluster.local.running_cluster import cluster_id, require_cluster, temp_dir
from cluster.settings import Settings
from deployments.client import tensors
from deployments.protocols.arrays import Array
from tests.conftest import open_http


class BenchmarkCluster:
    """A cluster with its own SHOAL_HOME and with authentication; use as a context manager, which stops it."""

    def __init__(self, folder: Path, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder, self.home = folder, folder / "home"
        self._settings = Settings(home=self.home, http_port=0, dashboard_port=0, ray_port=0)
        self._environment = (
            os.environ
            | dict(environment)
            | {
                "SHOAL_HOME": str(self.home),
                "SHOAL_HTTP_PORT": "0",
                "SHOAL_DASHBOARD_PORT": "0",
                "SHOAL_GRPC_PORT": "0",
            }
        )

    def __enter__(self) -> Self:
        try:
            self.run("up")
            cluster = require_cluster(self._settings)
            with open_http(self._settings, cluster) as http:
                self.key = str(http.headers["authorization"])
        except BaseException:
            self.run("down")
            raise
        self.url = cluster.url
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.run("down")

    def run(self, *arguments: str) -> str:
        """Run one `shoal` command; returns what it printed."""
        command = [str(Path(sys.executable).parent / "shoal"), *arguments]
        result = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"shoal {' '.join(arguments)}: {result.stderr}")
        return result.stdout

    def deploy(self, bundle: Path, name: str, *options: str) -> None:
        """Publish a bundle and deploy it."""
        self.run("models", "import", str(bundle))
        self.run("deploy", name, *options)

    def write_script(self, path: str, body: bytes, headers: dict[str, str]) -> Path:
        """Write the wrk script of one request to a model's path."""
        file = self.folder / f"{abs(hash((path, body)))}.lua"
        return write_wrk_script(file, f"{self.url}/v2/models/{path}", body, headers | {"Authorization": self.key})

    @contextlib.contextmanager
    def suspend(self) -> Iterator[None]:
        """Suspend the cluster's processes; only for seconds, or Ray's health checks fail."""
        owned = processes.find_owned(cluster_id(self.home), temp_dir(self.home))
        try:
            for process in owned:
                _ignore_ended(process.suspend)
            yield
        finally:
            for process in owned:
                _ignore_ended(process.resume)

    def measure_cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of the replicas, of HAProxy, and of the rest of the cluster so far."""
        cpu_s = {"replica": 0.0, "haproxy": 0.0, "rest of the cluster": 0.0}
        for process in processes.find_owned(cluster_id(self.home), temp_dir(self.home)):
            try:
                command, times = " ".join(process.cmdline()), process.cpu_times()
            except (psutil.Error, OSError):
                continue
            is_replica = "ray::ServeReplica:" in command and "shoal.control" not in command
            role = "replica" if is_replica else "haproxy" if "bin/haproxy" in command else "rest of the cluster"
            cpu_s[role] += times.user + times.system
        return cpu_s

    def measure(self, script: Path, connections: int, seconds: int) -> dict[str, float]:
        """Run wrk once; the result also has the CPU time per request of each role, in microseconds."""
        before = self.measure_cpu_s()
        result = run_wrk(script, connections, seconds)
        requests = result["requests_per_s"] * seconds
        shares = {f"{role}_us": 1e6 * (after - before[role]) / requests for role, after in self.measure_cpu_s().items()}
        return result | shares


def _ignore_ended(action: Callable[[], None]) -> None:
    """Run an action on a process that may have ended, so that the others are still resumed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        action()


def encode_request(x: Array, binary: bool = True) -> tuple[bytes, dict[str, str]]:
    """Encode a request of these rows as the Python client does; returns body and headers."""
    body, headers = tensors.encode_request({"input": x}, None, binary)
    return body, {name.decode(): value.decode() for name, value in headers}


def require_tools(*tools: tuple[str, str]) -> None:
    """Exit with the remedy if wrk or one of these (program, remedy) is missing."""
    for tool, remedy in (("wrk", "apt-get install wrk"), *tools):
        if not (shutil.which(tool) or (Path(sys.executable).parent / tool).exists()):
            sys.exit(f"error: this benchmark needs {tool}; {remedy}")


def write_wrk_script(file: Path, url: str, body: bytes, headers: dict[str, str]) -> Path:
    """Write a wrk script, with the URL in its first line and the body in another file of the same folder."""
    file.with_suffix(".body").write_bytes(body)
    lines = [f"-- {url}", 'wrk.method = "POST"', f'wrk.body = io.open("{file.with_suffix(".body")}", "rb"):read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def run_wrk(file: Path, connections: int, seconds: int) -> dict[str, float]:
    """Run wrk once; every response must be a 200.

    Returns:
        Requests per second, p50 and p99 in milliseconds, and the client's own CPU time per request in microseconds.
    """
    url = file.read_text().splitlines()[0].removeprefix("-- ")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "30", "--latency", "-s", str(file), url]
    before = os.times()
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = os.times()
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"wrk reported errors at {url}:\n{output}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert rate is not None
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    result = {"requests_per_s": float(rate.group(1))} | {f"p{p}_ms": _parse_milliseconds(output, p) for p in (50, 99)}
    return result | {"client_us": 1e6 * cpu_s / max(result["requests_per_s"] * seconds, 1)}


def _parse_milliseconds(output: str, percentile: int) -> float:
    match = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s|m)\b", output)
    assert match is not None
    return float(match.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[match.group(2)]
