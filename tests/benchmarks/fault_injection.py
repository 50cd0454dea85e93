"""Faults: what is done to a running cluster while callers hammer it, and undone after.

Every fault is a context manager: it is injected on entering, and what can be put right again is on leaving. It touches
processes and files of the benchmark's own cluster alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.local import processes
from cluster.local.ports import Ports
from cluster.local.ray_environment import ray_environment
from cluster.local.running_cluster import cluster_id, require_cluster, temp_dir
from cluster.settings import Settings
from deployments.edge.state import EDGE_DIR_VARIABLE
from tests.e2e.test_nodes import START_NODE

PAIR, SINGLE = "pair", "single"
"""Models of two replicas and of one."""

# Seconds for which a process is stopped, a store or free space is missing.
OUTAGE_S = 8.0
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")


class World:
    """The cluster of a benchmark, as whoever breaks it sees it."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home, self._environment = home, environment
        self.settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0)
        self.node: psutil.Process | None = None

    def list_processes(self, part: str) -> list[psutil.Process]:
        """List the cluster's processes whose command line holds a text, the newest first."""
        found = []
        for process in processes.find_owned(cluster_id(self.home), temp_dir(self.home)):
            with contextlib.suppress(psutil.Error):
                if part in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda each: each.create_time(), reverse=True)

    def find(self, part: str) -> psutil.Process:
        """Find the newest of them."""
        found = self.list_processes(part)
        if not found:
            raise LookupError(f"no process of the cluster has {part!r} in its command line")
        return found[0]

    def add_node(self) -> None:
        """Start a worker node on this machine."""
        before = {each.pid for each in self.list_processes("raylet/raylet")}
        environment = self._environment | ray_environment(self.settings) | self.settings.as_environment()
        environment |= {processes.CLUSTER_ID_VARIABLE: cluster_id(self.home)}
        environment |= {EDGE_DIR_VARIABLE: str(temp_dir(self.home) / "edge-2")}
        address = require_cluster(self.settings).ray_address
        command = [sys.executable, "-c", START_NODE, address, str(Ports().pick_free())]
        subprocess.run(command, env=environment, check=True, timeout=120)
        (self.node,) = [each for each in self.list_processes("raylet/raylet") if each.pid not in before]

    def find_replica_of_node(self) -> psutil.Process:
        """Find the replica of `pair` that runs on the worker node."""
        assert self.node is not None
        children = {each.pid for each in self.node.children(recursive=True)}
        return next(each for each in self.list_processes(f"ServeReplica:{PAIR}") if each.pid in children)


Inject = Callable[[World], contextlib.AbstractContextManager[None]]


class Fault(NamedTuple):
    """One fault.

    Attributes:
        inject: breaks something.
        model: whose callers are watched.
        needs_node: whether the cluster has a second node, with one of the model's replicas on it.
    """

    inject: Inject
    model: str = PAIR
    needs_node: bool = False


def kill(part: str) -> Inject:
    """End a process by SIGKILL."""

    @contextlib.contextmanager
    def inject(world: World) -> Iterator[None]:
        world.find(part).kill()
        yield

    return inject


def stop(part: str) -> Inject:
    """Stop a process by SIGSTOP, for OUTAGE_S; a stopped process keeps its sockets."""

    @contextlib.contextmanager
    def inject(world: World) -> Iterator[None]:
        process = world.find(part)
        process.suspend()
        time.sleep(OUTAGE_S)
        with contextlib.suppress(psutil.NoSuchProcess):  # replaced meanwhile
            process.resume()
        yield

    return inject


@contextlib.contextmanager
def kill_raylet(world: World) -> Iterator[None]:
    """End the raylet of the worker node; Ray's workers there end with it."""
    assert world.node is not None
    world.find_replica_of_node()
    world.node.kill()
    yield


@contextlib.contextmanager
def kill_node(world: World) -> Iterator[None]:
    """End every process of the worker node at once."""
    assert world.node is not None
    world.find_replica_of_node()
    for process in [world.node, *world.node.children(recursive=True)]:
        process.kill()
    yield


@contextlib.contextmanager
def lose_store(world: World) -> Iterator[None]:
    """Take the bundles away, and then a replica, whose successor needs them."""
    store = world.home / "artifacts"
    hidden = store.with_name("artifacts.gone")
    store.rename(hidden)
    try:
        world.find(f"ServeReplica:{PAIR}").kill()
        time.sleep(OUTAGE_S)
    finally:
        hidden.rename(store)
    yield


@contextlib.contextmanager
def fill_disk(world: World) -> Iterator[None]:
    """Fill SHOAL_HOME and Ray's folder, which are on small file systems here, and then end a replica."""
    fillers = [world.home / "filler", temp_dir(world.home) / "filler"]
    for filler in fillers:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))
    try:
        world.find(f"ServeReplica:{PAIR}").kill()
        time.sleep(OUTAGE_S)
    finally:
        for filler in fillers:
            filler.unlink(missing_ok=True)
    yield


@contextlib.contextmanager
def exhaust_memory(world: World) -> Iterator[None]:
    """Allow a replica less memory than it has, so that the kernel ends it (a control group, version 1)."""
    group = MEMORY_CGROUP / f"shoal-faults-{os.getpid()}"
    group.mkdir()
    process = world.find(f"ServeReplica:{PAIR}")
    try:
        (group / "memory.move_charge_at_immigrate").write_text("1")
        (group / "cgroup.procs").write_text(str(process.pid))
        # Below what it holds: the limit cannot be set, but each new page now meets it.
        used = int((group / "memory.usage_in_bytes").read_text())
        (group / "memory.limit_in_bytes").write_text(str(used + 2**20))
        deadline = time.monotonic() + OUTAGE_S
        while process.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.is_running():
            process.send_signal(signal.SIGKILL)
    finally:
        with contextlib.suppress(psutil.Error):
            process.wait(5)
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            group.rmdir()
    yield


FAULTS: dict[str, Fault] = {
    "none": Fault(lambda world: contextlib.nullcontext()),
    "replica killed": Fault(kill(f"ServeReplica:{PAIR}")),
    "replica stopped": Fault(stop(f"ServeReplica:{PAIR}")),
    "only replica killed": Fault(kill(f"ServeReplica:{SINGLE}"), SINGLE),
    "only replica stopped": Fault(stop(f"ServeReplica:{SINGLE}"), SINGLE),
    "haproxy killed": Fault(kill("haproxy -db")),
    "haproxy stopped": Fault(stop("haproxy -db")),
    "edge killed": Fault(kill("ServeReplica:shoal.edge")),
    "edge stopped": Fault(stop("ServeReplica:shoal.edge")),
    "controller killed": Fault(kill("ServeController")),
    "controller stopped": Fault(stop("ServeController")),
    "directory killed": Fault(kill("ray::Directory")),
    "directory stopped": Fault(stop("ray::Directory")),
    "gcs killed": Fault(kill("gcs/gcs_server")),
    "gcs stopped": Fault(stop("gcs/gcs_server")),
    "store gone": Fault(lose_store),
    "disk full": Fault(fill_disk),
    "memory at its limit": Fault(exhaust_memory),
    "raylet of a node killed": Fault(kill_raylet, needs_node=True),
    "node killed": Fault(kill_node, needs_node=True),
}
"""By name, in the order in which they are measured; the last two need a cluster of two nodes."""
