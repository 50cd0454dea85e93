"""Machines that come and go while a run trains; here they are several raylets of one machine."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.local import processes
from cluster.local.ports import Ports
from cluster.local.ray_environment import ray_environment
from cluster.local.record import Cluster, cluster_id, temp_dir
from cluster.local.start import start_cluster, stop_cluster
from cluster.settings import Settings
from tests.e2e.slow_run import EPOCHS, STEPS_PER_EPOCH, SlowRun, same, weights
from training.registry.model_registry import Registry

pytestmark = pytest.mark.soak

NOTICE_S = 20
# What `ray start` does for a node, but for its refusal: it takes a cluster that keeps to loopback for one that can have
# no nodes, which elsewhere would be other machines.
NODE = """
import sys
from ray._private.node import Node
from ray._private.parameter import RayParams

params = RayParams(
    gcs_address=sys.argv[1],
    node_ip_address="127.0.0.1",
    num_cpus=1,
    dashboard_agent_listen_port=int(sys.argv[2]),
)
Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
"""


class Nodes:
    """A cluster whose head has room for one worker, and nodes that have room for one more."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0, cpus=1)
        self.cluster: Cluster = start_cluster(self.settings)

    def add(self) -> psutil.Process:
        """Start a node; returns its raylet."""
        before = self._raylets()
        self._run(sys.executable, "-c", NODE, self.cluster.ray_address, str(Ports().pick_free()))
        (made,) = [process for process in self._raylets() if process not in before]
        return made

    def kill(self, raylet: psutil.Process) -> None:
        """Take a node away with all that runs on it, as when its power fails."""
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()

    def announce(self, raylet: psutil.Process) -> float:
        """Tell Ray that a node will be taken away; returns when, in seconds since the epoch."""
        (named,) = [word for word in raylet.cmdline() if word.startswith("--node_id=")]
        command = [str(Path(sys.executable).parent / "ray"), "drain-node"]
        command += [f"--address={self.cluster.ray_address}", f"--node-id={named.partition('=')[2]}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        self._run(*command, f"--deadline-remaining-seconds={NOTICE_S}")
        return time.time() + NOTICE_S

    def _run(self, *command: str) -> None:
        environment = os.environ | ray_environment(self.settings)
        environment[processes.CLUSTER_ID_VARIABLE] = cluster_id(self.settings.home)
        subprocess.run(command, env=environment, check=True, timeout=120)

    def _raylets(self) -> list[psutil.Process]:
        found = processes.find_owned(cluster_id(self.settings.home), temp_dir(self.settings.home))
        return [process for process in found if process.name() == "raylet"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    home = tmp_path_factory.mktemp("nodes")
    try:
        yield Nodes(home)
    finally:
        stop_cluster(Settings(home=home))


@pytest.fixture
def run(nodes: Nodes, tmp_path: Path) -> Iterator[SlowRun]:
    made = SlowRun(nodes.settings.home, tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.process.terminate()
        made.process.wait(60)


def test_a_run_outlives_a_machine_and_the_weights_are_the_same(nodes: Nodes, run: SlowRun) -> None:
    registry = Registry(nodes.settings)
    node = nodes.add()
    run.pace(0)
    run.start()
    assert run.end() == 0, run.complaint
    whole = weights(registry)

    run.pace(0.02)
    run.start()
    run.at(75)
    nodes.kill(node)
    run.wait_for("waiting for resources: a CPU for each of 2 worker(s), 1 available in the cluster")
    spare = nodes.add()

    assert run.end() == 0, run.complaint
    nodes.kill(spare)
    assert len(run.resumed_at) == 1
    assert 0 < run.resumed_at[0] <= 76
    assert "failed (" in run.said
    assert same(weights(registry), whole)


def test_a_run_grows_with_the_cluster_and_keeps_a_checkpoint_before_a_machine_goes(nodes: Nodes, run: SlowRun) -> None:
    run.pace(0.2)
    run.start("--workers", "1-2", "--set", "checkpoints.interval_s=3600")
    run.at(5)
    node = nodes.add()
    run.at(0, rank=1)

    until_s = nodes.announce(node)
    run.wait_for("a node will be preempted; saving a checkpoint at step")
    (at,) = re.findall(r"saving a checkpoint at step (\d+)", run.said)
    while int(at) not in run.steps_kept():
        assert time.time() < until_s, "no checkpoint before the machine went"
        time.sleep(0.1)
    time.sleep(max(0.0, until_s - time.time()))
    nodes.kill(node)
    run.wait_for("with 1 worker(s)")
    run.pace(0)

    assert run.end() == 0, run.complaint
    manifest = Registry(nodes.settings).load_manifest(Registry(nodes.settings).list_versions("slow")[0])
    assert int(re.findall(r"resumed at step (\d+) with 1 worker", run.said)[-1]) >= int(at)
    # However many workers there were, each step saw as many rows.
    assert manifest.training["steps"] == EPOCHS * STEPS_PER_EPOCH
    assert manifest.training["workers"] == 1
