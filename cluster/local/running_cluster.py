"""Running cluster: its addresses, in a file of SHOAL_HOME, so that any later command finds it.

Knows files and processes of this machine; imports nothing heavy, since every command begins here.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from cluster.local import processes
from cluster.local.ports import is_listening
from cluster.settings import Settings
from training.errors import UserError
from training.registry.process_identity import ProcessIdentity
from training.settings import mask_passwords

# How long a command waits for a global control store that is being started again.
RESTART_TIMEOUT_S = 5.0
# Within it, start.py makes a folder with mode 0700, and refuses one that belongs to another user.
TEMP_ROOT = Path("/tmp")  # nosec B108
# Settings that every command on one cluster must share: where it listens, where registry, artifacts and state are, and
# whose bundles are deployed.
SHARED_VARIABLES = (
    "SHOAL_HOST",
    "SHOAL_TLS_CERT",
    "SHOAL_TLS_KEY",
    "SHOAL_REGISTRY_URI",
    "SHOAL_ARTIFACTS_URI",
    "SHOAL_PLATFORM_URI",
    "SHOAL_TRUST",
)


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        gcs_port: of Ray's global control store, which drivers and nodes connect to.
        http_port: of the HTTP endpoint.
        grpc_port: of the gRPC endpoint.
        dashboard_port: of Ray's dashboard, job API and Serve API.
        client_host: the address that callers reach it by.
        shared_settings: SHARED_VARIABLES as they were when it started.
        head: the process of its global control store; see training.registry.process_identity.
        tls_cert: file of the certificate that HTTP and gRPC are served with; empty for plain ones.
        run_pid: the process that started it for one training run; 0 for a cluster that stays up.
        autoscales: whether Ray's autoscaler adds nodes to it, so that what fits no node today may fit one later.
        keeper: the process that starts the global control store again; empty for none.
    """

    gcs_port: int
    http_port: int
    grpc_port: int
    dashboard_port: int
    client_host: str
    shared_settings: dict[str, str]
    head: str
    tls_cert: str = ""
    run_pid: int = 0
    autoscales: bool = False
    keeper: str = ""

    @property
    def url(self) -> str:
        """URL of the HTTP endpoint."""
        return f"{'https' if self.tls_cert else 'http'}://{self.client_host}:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC endpoint."""
        return f"{self.client_host}:{self.grpc_port}"

    @property
    def dashboard_url(self) -> str:
        """URL of Ray's dashboard, job API and Serve API."""
        return f"http://{self.client_host}:{self.dashboard_port}"

    @property
    def ray_address(self) -> str:
        """The address that ray.init connects to."""
        return f"{self.client_host}:{self.gcs_port}"


def cluster_id(home: Path) -> str:
    """Name the cluster of a SHOAL_HOME; short, since HAProxy takes no socket path of more than 97 bytes."""
    return hashlib.sha256(str(home).encode()).hexdigest()[:8]


def temp_dir(home: Path) -> Path:
    """The folder of Ray's temp dir and HAProxy's files; outside of SHOAL_HOME, so that socket paths are short."""
    return TEMP_ROOT / f"shoal-{cluster_id(home)}"


def shared_settings(settings: Settings) -> dict[str, str]:
    """SHARED_VARIABLES of these settings, without passwords: a file and messages show them."""
    values = settings.as_environment()
    return {name: mask_passwords(values[name]) for name in SHARED_VARIABLES}


def write_record(home: Path, cluster: Cluster) -> None:
    """Write the record; atomically, since a reader or a crash may come at any moment."""
    file = _record_file(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(cluster)))
    temporary.replace(file)


def replace_head(home: Path, gcs_pid: int) -> None:
    """Write another process of the global control store into the record, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        cluster = Cluster(**json.loads(_record_file(home).read_text()))
        write_record(home, replace(cluster, head=str(ProcessIdentity.of(gcs_pid))))


def delete_record(home: Path) -> None:
    """Delete the record, if there is one."""
    _record_file(home).unlink(missing_ok=True)


def find_cluster(settings: Settings) -> Cluster | None:
    """Find the cluster that runs from this SHOAL_HOME, if one does.

    Raises:
        UserError: it runs, and was started with other shared settings or by another version of Shoal.
    """
    try:
        cluster, is_alive = _read_record(settings.home)
    except (OSError, ValueError, TypeError) as error:
        # Not to be taken for leftovers, which the next start ends.
        if isinstance(error, TypeError) and processes.find_owned(cluster_id(settings.home), temp_dir(settings.home)):
            raise UserError(
                f"the cluster that runs from {settings.home} was started by another version of Shoal; stop it with "
                "`shoal down`, then start it again with `shoal up`"
            ) from None
        return None
    # Ports may belong to other processes by now.
    if not is_alive or not is_listening(cluster.client_host, cluster.dashboard_port):
        return None
    if cluster.run_pid and not psutil.pid_exists(cluster.run_pid):
        # Its run was killed before it could stop the cluster.
        return None
    for name, value in shared_settings(settings).items():
        if cluster.shared_settings.get(name) != value:
            raise UserError(
                f"{name} is {value!r}, but the running cluster was started with {cluster.shared_settings.get(name)!r}; "
                "set it to that, or run `shoal down` first"
            )
    return cluster


def _read_record(home: Path) -> tuple[Cluster, bool]:
    """Read the record, and whether the head is alive; waits where it is being started again."""
    deadline = time.monotonic() + RESTART_TIMEOUT_S
    while True:
        cluster = Cluster(**json.loads(_record_file(home).read_text()))
        is_alive = ProcessIdentity.parse(cluster.head).is_alive()
        is_kept = bool(cluster.keeper) and ProcessIdentity.parse(cluster.keeper).is_alive()
        if is_alive or not is_kept or time.monotonic() > deadline:
            return cluster, is_alive
        time.sleep(0.1)


def require_cluster(settings: Settings) -> Cluster:
    """Find the running cluster.

    Raises:
        UserError: none runs, or the one that does belongs to a training run.
    """
    cluster = find_cluster(settings)
    if cluster is None:
        raise UserError(f"no cluster runs from {settings.home}; start one with `shoal up`")
    reject_run_cluster(cluster)
    return cluster


def reject_run_cluster(cluster: Cluster) -> None:
    """Raise UserError if the cluster was started for one training run only."""
    if cluster.run_pid:
        raise UserError(
            f"a training run (process {cluster.run_pid}) started this cluster for itself and stops it at its end; "
            "wait for it, and run `shoal up` before the next one"
        )


@contextlib.contextmanager
def exclusive_lock(settings: Settings, on_status: Callable[[str], None] = lambda status: None) -> Iterator[None]:
    """Keep other commands on this SHOAL_HOME from starting, stopping or deploying at the same time.

    Args:
        settings: give SHOAL_HOME.
        on_status: told where another command has to be waited for.
    """
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            on_status(f"waiting for another shoal command to end (process {file.read().strip() or 'unknown'})")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _record_file(home: Path) -> Path:
    return home / "run" / "cluster.json"
