"""Faults: what is done to a running cluster while callers hammer it, and undone after.

Every fault is a context manager: it is injected on entering, and what can be put right again is on leaving. It touches
processes and files of the benchmark's own cluster alone.
"""

import contextlib
import os
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
from tests.benchmarks.fault_settings import (
    Setting,
    fake_clock,
    find_device,
    mount_own_disk,
    mount_small_disks,
    set_clock,
)
from tests.e2e.test_nodes import START_NODE

PAIR, SINGLE = "pair", "single"
"""Models of two replicas and of one."""

NODE, SMALL_DISK, OWN_DISK, CLOCK = "node", "small disk", "own disk", "clock"
SETTINGS: dict[str, Setting] = {SMALL_DISK: mount_small_disks, OWN_DISK: mount_own_disk, CLOCK: fake_clock}

# Seconds for which a process is stopped, a store or free space is missing.
OUTAGE_S = 8.0
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
BLOCK_CGROUP = Path("/sys/fs/cgroup/blkio")
SLOW_BYTES_PER_S = 100_000
NEW_PAGES_BYTES = 2**16


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
        setting: what must be there before the cluster starts: one of SETTINGS; NODE, a second node with one of the
            model's replicas on it; or nothing.
    """

    inject: Inject
    model: str = PAIR
    setting: str = ""


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
def slow_disk(world: World) -> Iterator[None]:
    """Let the disk of SHOAL_HOME and Ray's folder read and write 100 KB/s, and end a replica, whose successor reads."""
    device = find_device(world.home)
    limits = [BLOCK_CGROUP / f"blkio.throttle.{kind}_bps_device" for kind in ("read", "write")]
    Path("/proc/sys/vm/drop_caches").write_text("1")
    for limit in limits:
        limit.write_text(f"{device} {SLOW_BYTES_PER_S}")
    try:
        world.find(f"ServeReplica:{PAIR}").kill()
        time.sleep(2 * OUTAGE_S)
    finally:
        for limit in limits:
            limit.write_text(f"{device} 0")
    yield


def move_clock(ahead_s: int) -> Inject:
    """Move the wall clock of the cluster's processes, for OUTAGE_S and back, and end a replica in between."""

    @contextlib.contextmanager
    def inject(world: World) -> Iterator[None]:
        folder = world.home.parent
        set_clock(folder, ahead_s)
        try:
            time.sleep(OUTAGE_S / 2)
            world.find(f"ServeReplica:{PAIR}").kill()
            time.sleep(OUTAGE_S / 2)
        finally:
            set_clock(folder, 0)
        yield

    return inject


@contextlib.contextmanager
def exhaust_memory(world: World) -> Iterator[None]:
    """Allow a replica no more memory than it has: the kernel ends it at the next page (a control group, version 1)."""
    group = MEMORY_CGROUP / f"shoal-faults-{os.getpid()}"
    group.mkdir()
    process = world.find(f"ServeReplica:{PAIR}")
    try:
        # What it holds stays with the group that it came from; only new pages count in this one.
        (group / "memory.limit_in_bytes").write_text(str(NEW_PAGES_BYTES))
        (group / "cgroup.procs").write_text(str(process.pid))
        deadline = time.monotonic() + OUTAGE_S
        while process.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
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
    "memory at its limit": Fault(exhaust_memory),
    "disk full": Fault(fill_disk, setting=SMALL_DISK),
    "disk slow": Fault(slow_disk, setting=OWN_DISK),
    "clock an hour ahead": Fault(move_clock(3600), setting=CLOCK),
    "clock an hour behind": Fault(move_clock(-3600), setting=CLOCK),
    "raylet of a node killed": Fault(kill_raylet, setting=NODE),
    "node killed": Fault(kill_node, setting=NODE),
}
"""By name, in the order in which they are measured."""
