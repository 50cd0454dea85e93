"""Start and stop: a head starts on this machine, a worker node joins one, all processes of a cluster end.

Knows Ray's command line; nothing of Serve applications, which cluster.rollout starts afterwards.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from cluster.local import gcs_keeper, malloc, processes, secrets
from cluster.local.network import check_network
from cluster.local.ports import Ports, find_node_address
from cluster.local.ray_environment import ANY, LOOPBACK, ray_environment
from cluster.local.running_cluster import (
    Cluster,
    cluster_id,
    delete_record,
    find_cluster,
    reject_run_cluster,
    shared_settings,
    temp_dir,
    write_record,
)
from cluster.settings import Settings
from deployments.edge.state import EDGE_DIR_VARIABLE, HEAD_LABEL
from training.errors import ServiceError, UserError
from training.provenance.keys import ensure_signing_key
from training.registry.process_identity import ProcessIdentity

START_TIMEOUT_S = 120
ANSI_COLORS = re.compile(r"\x1b\[[0-9;]*m")
# The last line of a traceback, or of one of click's messages.
ERROR_LINE = re.compile(r"(?:[\w.]*(?:Error|Exception|Interrupt)|Usage Error)\b[^:]*: ", re.IGNORECASE)
# Ports for which Ray has fixed defaults, which a second cluster on this machine may hold.
PORT_VARIABLES = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")


def start_cluster(settings: Settings, *, ray_arguments: tuple[str, ...] = (), for_run: bool = False) -> Cluster:
    """Start a head on this machine, or return the one that runs; leftovers of a crashed start are cleared first.

    Args:
        settings: of the cluster.
        ray_arguments: further arguments of `ray start`.
        for_run: whether it is for one training run of this process only.

    Raises:
        UserError: a port is in use, the temp dir belongs to another user, or the network is not one for these settings.
        ServiceError: Ray does not start; the message is Ray's.
    """
    running = find_cluster(settings)
    if running:
        reject_run_cluster(running)
        return running
    check_network(settings, takes_requests=not for_run)
    stop_cluster(settings)
    _make_private_dir(temp_dir(settings.home))
    _ensure_secrets(settings.home)
    ports = Ports()
    set_ports = (settings.http_port, settings.grpc_port, settings.dashboard_port)
    # A run's own cluster serves nothing, and must not fail where another one does.
    http_port, grpc_port, dashboard_port = (0, 0, 0) if for_run else set_ports
    cluster = Cluster(
        head="",
        gcs_port=ports.claim(settings.host, settings.ray_port, "ray_port"),
        http_port=ports.claim(settings.host, http_port, "http_port"),
        grpc_port=ports.claim(settings.host, grpc_port, "grpc_port"),
        dashboard_port=ports.claim(settings.host, dashboard_port, "dashboard_port"),
        client_host=find_node_address() if settings.host == ANY else settings.host,
        shared_settings=shared_settings(settings),
        tls_cert=settings.tls_cert,
        run_pid=os.getpid() if for_run else 0,
        autoscales=any(argument.startswith("--autoscaling-config") for argument in ray_arguments),
    )
    arguments = [
        "--head",
        f"--labels={HEAD_LABEL}=true",
        f"--port={cluster.gcs_port}",
        f"--dashboard-host={settings.host}",
        f"--dashboard-port={cluster.dashboard_port}",
        f"--dashboard-agent-listen-port={ports.pick_free()}",
        f"--ray-client-server-port={ports.pick_free()}",
        # Ray opens its temp dir to all users; inside ours, which is closed, that lets nobody in.
        f"--temp-dir={temp_dir(settings.home) / 'ray'}",
        *ray_arguments,
    ]
    environment = _build_environment(settings, ports)
    if not for_run:
        # In memory alone, which is Ray's default, all that runs would end with the GCS.
        environment |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(temp_dir(settings.home) / "gcs")}
    _run_ray_start(settings, arguments, environment)
    head, keeper = _find_head(settings), ""
    if not for_run:
        keeper = str(ProcessIdentity.of(gcs_keeper.start_keeper(settings.home, head.pid, environment)))
    cluster = replace(cluster, head=str(head), keeper=keeper)
    write_record(settings.home, cluster)
    return cluster


def join_cluster(settings: Settings, address: str) -> None:
    """Start a worker node here for the head at `address` (host:port).

    Raises:
        UserError: this machine has no copy of the head's token, listens on loopback only, or may not use the network.
        ServiceError: Ray does not start.
    """
    if settings.host == LOOPBACK:
        raise UserError(
            "a node that listens on 127.0.0.1 only cannot join; set SHOAL_HOST=0.0.0.0 here and on the head"
        )
    check_network(settings, takes_requests=False)
    secrets.read_secret(settings.home, secrets.RAY_TOKEN)
    _make_private_dir(temp_dir(settings.home))
    _run_ray_start(settings, [f"--address={address}"], _build_environment(settings, Ports()))


def stop_cluster(settings: Settings) -> int:
    """End every process of this SHOAL_HOME's cluster; returns how many there were."""
    folder = temp_dir(settings.home)
    stopped = processes.stop_owned(cluster_id(settings.home), folder)
    delete_record(settings.home)
    if folder.is_dir() and _is_own_dir(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return stopped


def _ensure_secrets(home: Path) -> None:
    for name in secrets.ALL_SECRETS:
        secrets.ensure_secret(home, name)
    ensure_signing_key(home)


def _build_environment(settings: Settings, ports: Ports) -> dict[str, str]:
    """The variables of every process of a node."""
    environment = os.environ | ray_environment(settings) | settings.as_environment()
    environment[processes.CLUSTER_ID_VARIABLE] = cluster_id(settings.home)
    environment[EDGE_DIR_VARIABLE] = str(temp_dir(settings.home) / "edge")
    # What Ray's processes leave there when they are killed goes away with the cluster.
    environment["TMPDIR"] = str(temp_dir(settings.home) / "tmp")
    Path(environment["TMPDIR"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    environment.setdefault("GLIBC_TUNABLES", malloc.TUNABLES)
    # `python` in a job is the one that Shoal is installed in.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    for name in PORT_VARIABLES:
        environment[name] = str(ports.pick_free())
    return environment


def _run_ray_start(settings: Settings, arguments: list[str], environment: dict[str, str]) -> None:
    cpus = settings.cpus or 2 * (os.cpu_count() or 1) + 2
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    command += [f"--num-cpus={cpus}", "--disable-usage-stats"]
    # Any free port for each worker; by default they are 10002 to 19999, whatever else was set to be there.
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    # It forwards workers' output to drivers by polling ten times a second; no driver of ours reads it.
    command += ["--include-log-monitor=false"]
    try:
        # A session of its own: Ctrl-C at a terminal reaches only the command, which then stops the cluster in order.
        with processes.without_core_dumps():
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
        raise ServiceError(f"Ray did not start: {find_reason(done.stderr, done.stdout, done.returncode)}")


def find_reason(stderr: str, stdout: str, exit_code: int) -> str:
    """Ray's own words for why it failed: the last error that it printed, else the last line."""
    lines = [ANSI_COLORS.sub("", line).strip() for line in [*stdout.splitlines(), *stderr.splitlines()]]
    lines = [line for line in lines if line]
    errors = [line for line in lines if ERROR_LINE.match(line)]
    return (errors or lines or [f"exit code {exit_code}"])[-1]


def _find_head(settings: Settings) -> ProcessIdentity:
    for process in processes.find_owned(cluster_id(settings.home), temp_dir(settings.home)):
        with suppress(psutil.NoSuchProcess):
            if "gcs_server" in process.name():
                return ProcessIdentity.of(process.pid)
    raise ServiceError(f"Ray ended right after its start; its logs are in {temp_dir(settings.home) / 'ray'}")


def _make_private_dir(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_own_dir(folder):
        raise UserError(f"{folder} belongs to another user; remove it or choose another SHOAL_HOME")
    folder.chmod(0o700)


def _is_own_dir(folder: Path) -> bool:
    status = folder.lstat()
    return status.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
