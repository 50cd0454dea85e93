"""What the benchmarks of serving share: a Shoal cluster of their own, wrk as its client, and whose time was spent.

Client, HAProxy and replica share this machine's cores, so each measurement says what each of them took.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from cluster.local import processes
from cluster.local.record import cluster_id, require_cluster, temp_dir
from cluster.settings import Settings
from deployments.client import tensors
from deployments.client.tensors import Array
from tests.conftest import open_http


class Stand:
    """A cluster that serves what it is given, with authentication on; gone at the end of the `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self._settings = Settings(home=self.home, http_port=0, dashboard_port=0, ray_port=0)
        self._environment = os.environ | {
            "SHOAL_HOME": str(self.home),
            "SHOAL_HTTP_PORT": "0",
            "SHOAL_DASHBOARD_PORT": "0",
            "SHOAL_GRPC_PORT": "0",
        }

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
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("down")

    def run(self, *words: str) -> None:
        """Run one `shoal` command."""
        command = [Path(sys.executable).parent / "shoal", *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"shoal {' '.join(words)}: {done.stderr}")

    def serve(self, bundle: Path, name: str, *options: str) -> None:
        """Publish a bundle and deploy it."""
        self.run("models", "import", str(bundle))
        self.run("deploy", name, *options)

    def script(self, path: str, body: bytes, headers: dict[str, str]) -> Path:
        """Write wrk's script for one request to a model's path."""
        file = self.folder / f"{abs(hash((path, body)))}.lua"
        return script(file, f"{self.url}/v2/models/{path}", body, headers | {"Authorization": self.key})

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The cluster's processes stand still: for seconds, or Ray takes itself for dead."""
        owned = processes.find_owned(cluster_id(self.home), temp_dir(self.home))
        try:
            for process in owned:
                _if_there(process.suspend)
            yield
        finally:
            for process in owned:
                _if_there(process.resume)

    def cpu_s(self) -> dict[str, float]:
        """Seconds that the replicas, HAProxy, and all the rest of the cluster have had of a core so far."""
        spent = {"replica": 0.0, "haproxy": 0.0, "rest of the cluster": 0.0}
        for process in processes.find_owned(cluster_id(self.home), temp_dir(self.home)):
            try:
                name, times = " ".join(process.cmdline()), process.cpu_times()
            except (psutil.Error, OSError):
                continue
            model = "ray::ServeReplica:" in name and "shoal.control" not in name
            role = "replica" if model else "haproxy" if "bin/haproxy" in name else "rest of the cluster"
            spent[role] += times.user + times.system
        return spent

    def measure(self, script: Path, connections: int, seconds: int) -> dict[str, float]:
        """Run wrk once; adds the share of a request's CPU time that each party took, in microseconds."""
        before = self.cpu_s()
        found = wrk(script, connections, seconds)
        requests = found["requests_per_s"] * seconds
        shares = {f"{role}_us": 1e6 * (after - before[role]) / requests for role, after in self.cpu_s().items()}
        return found | shares


def _if_there(act: Callable[[], None]) -> None:
    """One that has ended meanwhile must not leave the others held."""
    with contextlib.suppress(psutil.NoSuchProcess):
        act()


def request(x: Array, binary: bool = True) -> tuple[bytes, dict[str, str]]:
    """A request of these rows as the Python client writes it: body and headers."""
    body, headers = tensors.encode_request({"input": x}, None, binary)
    return body, {name.decode(): value.decode() for name, value in headers}


def require(*needs: tuple[str, str]) -> None:
    """End with a remedy where a program is missing."""
    for tool, remedy in (("wrk", "apt-get install wrk"), *needs):
        if not (shutil.which(tool) or (Path(sys.executable).parent / tool).exists()):
            sys.exit(f"error: this benchmark needs {tool}; {remedy}")


def script(file: Path, url: str, body: bytes, headers: dict[str, str]) -> Path:
    """Write wrk's script, its URL in the first line and its body in a file beside it."""
    file.with_suffix(".body").write_bytes(body)
    lines = [f"-- {url}", 'wrk.method = "POST"', f'wrk.body = io.open("{file.with_suffix(".body")}", "rb"):read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def wrk(file: Path, connections: int, seconds: int) -> dict[str, float]:
    """Run wrk once; every answer must be a 200.

    Returns:
        Requests per second, p50 and p99 in milliseconds, and the client's own CPU time per request in microseconds.
    """
    url = file.read_text().splitlines()[0].removeprefix("-- ")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "30", "--latency", "-s", str(file), url]
    before = os.times()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = os.times()
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"wrk met errors at {url}:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate is not None
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    found = {"requests_per_s": float(rate.group(1))} | {f"p{p}_ms": _milliseconds(said, p) for p in (50, 99)}
    return found | {"client_us": 1e6 * spent / max(found["requests_per_s"] * seconds, 1)}


def _milliseconds(said: str, percentile: int) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s|m)\b", said)
    assert found is not None
    return float(found.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[found.group(2)]
