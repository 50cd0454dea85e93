"""Nodes that join and leave while a run trains or requests come; here they are several raylets of one machine."""

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
from cluster.local.running_cluster import Cluster, cluster_id, temp_dir
from cluster.local.start import start_cluster, stop_cluster
from cluster.rollout.change import reconcile
from cluster.settings import Settings
from deployments.edge.state import EDGE_DIR_VARIABLE
from deployments.settings import EdgeSettings
from tests.conftest import publish_and_deploy
from tests.e2e.load import Load
from tests.e2e.slow_run import EPOCHS, STEPS_PER_EPOCH, SlowRun, are_identical, load_weights
from tests.small_bundles import save_table
from training.registry.model_registry import Registry

pytestmark = pytest.mark.soak

PREEMPTION_NOTICE_S = 20
# As `ray start` starts a node, without its check that refuses to join a head bound to loopback, which other machines
# could not reach.
START_NODE = """
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
    """A cluster whose head has a CPU for one worker, and nodes with one CPU each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cluster: Cluster = start_cluster(self.settings)

    def add(self, **environment: str) -> psutil.Process:
        """Start a node with some variables of its own; returns its raylet."""
        before = self._list_raylets()
        port = str(Ports().pick_free())
        self._run(sys.executable, "-c", START_NODE, self.cluster.ray_address, port, **environment)
        (raylet,) = [process for process in self._list_raylets() if process not in before]
        return raylet

    def kill(self, raylet: psutil.Process) -> None:
        """Kill a node's raylet and all its processes at once, as a power failure does."""
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()

    def announce_preemption(self, raylet: psutil.Process) -> float:
        """Tell Ray that a node will be preempted; returns when, in seconds since the epoch."""
        (option,) = [word for word in raylet.cmdline() if word.startswith("--node_id=")]
        command = [str(Path(sys.executable).parent / "ray"), "drain-node"]
        command += [f"--address={self.cluster.ray_address}", f"--node-id={option.partition('=')[2]}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        self._run(*command, f"--deadline-remaining-seconds={PREEMPTION_NOTICE_S}")
        return time.time() + PREEMPTION_NOTICE_S

    def _run(self, *command: str, **variables: str) -> None:
        environment = os.environ | ray_environment(self.settings) | self.settings.as_environment() | variables
        environment[processes.CLUSTER_ID_VARIABLE] = cluster_id(self.settings.home)
        subprocess.run(command, env=environment, check=True, timeout=120)

    def _list_raylets(self) -> list[psutil.Process]:
        owned = processes.find_owned(cluster_id(self.settings.home), temp_dir(self.settings.home))
        return [process for process in owned if process.name() == "raylet"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    settings = Settings(home=tmp_path_factory.mktemp("nodes"), http_port=0, grpc_port=0, dashboard_port=0, cpus=1)
    try:
        yield Nodes(settings)
    finally:
        stop_cluster(settings)


@pytest.fixture
def run(nodes: Nodes, tmp_path: Path) -> Iterator[SlowRun]:
    slow_run = SlowRun(nodes.settings.home, tmp_path)
    yield slow_run
    if slow_run.process and slow_run.process.poll() is None:
        slow_run.process.terminate()
        slow_run.process.wait(60)


def test_a_run_survives_the_loss_of_a_node_and_the_weights_are_the_same(nodes: Nodes, run: SlowRun) -> None:
    registry = Registry(nodes.settings)
    node = nodes.add()
    run.set_step_time(0)
    run.start()
    assert run.wait() == 0, run.stderr
    reference_weights = load_weights(registry)

    run.set_step_time(0.02)
    run.start()
    run.wait_for_step(75)
    nodes.kill(node)
    run.wait_for_output("waiting for resources: a CPU for each of 2 worker(s), 1 available in the cluster")
    new_node = nodes.add()

    assert run.wait() == 0, run.stderr
    nodes.kill(new_node)
    assert len(run.resumed_steps) == 1
    assert 0 < run.resumed_steps[0] <= 76
    assert "failed (" in run.stdout
    assert are_identical(load_weights(registry), reference_weights)


def test_a_run_scales_up_with_the_cluster_and_saves_a_checkpoint_before_a_node_is_preempted(
    nodes: Nodes, run: SlowRun
) -> None:
    run.set_step_time(0.2)
    run.start("--workers", "1-2", "--set", "checkpoints.interval_s=3600")
    run.wait_for_step(5)
    node = nodes.add()
    run.wait_for_step(0, rank=1)

    preemption_time = nodes.announce_preemption(node)
    run.wait_for_output("a node will be preempted; saving a checkpoint at step")
    (checkpoint_step,) = re.findall(r"saving a checkpoint at step (\d+)", run.stdout)
    while int(checkpoint_step) not in run.list_checkpoint_steps():
        assert time.time() < preemption_time, "no checkpoint was saved before the preemption"
        time.sleep(0.1)
    time.sleep(max(0.0, preemption_time - time.time()))
    nodes.kill(node)
    run.wait_for_output("with 1 worker(s)")
    run.set_step_time(0)

    assert run.wait() == 0, run.stderr
    manifest = Registry(nodes.settings).load_manifest(Registry(nodes.settings).list_versions("slow")[0])
    assert int(re.findall(r"resumed at step (\d+) with 1 worker", run.stdout)[-1]) >= int(checkpoint_step)
    # The global batch size does not depend on the number of workers.
    assert manifest.training["steps"] == EPOCHS * STEPS_PER_EPOCH
    assert manifest.training["workers"] == 1


def test_edges_on_two_nodes_take_requests_and_one_does_without_the_other(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "home", http_port=0, grpc_port=0, dashboard_port=0, cpus=2, edge=EdgeSettings(nodes=2)
    )
    try:
        nodes = Nodes(settings)
        # On one machine both listen on one port, and the kernel deals connections out; each has its own files.
        nodes.add(**{EDGE_DIR_VARIABLE: str(temp_dir(settings.home) / "edge-2")})
        reconcile(settings, nodes.cluster, lambda status: None)
        save_table(tmp_path / "table")
        publish_and_deploy(settings, nodes.cluster, tmp_path / "table")
        owned = processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
        first, second = sorted(
            (process for process in owned if process.name() == "haproxy"), key=lambda each: each.cmdline()[-1]
        )
        assert "edge-2" in " ".join(second.cmdline())
        (edge,) = [process for process in owned if process.cmdline()[:1] == ["ray::ServeReplica:shoal.edge:edge"]]

        edge.suspend()  # it would start the first one again
        first.kill()
        with Load(settings, nodes.cluster, "flowers") as load:
            load.wait_for_answers(100)
        assert load.failures == []
        edge.resume()
    finally:
        stop_cluster(settings)
