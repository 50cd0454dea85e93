"""A model deployed with a latency goal: its replica profiles itself, and commands answer from that profile."""

import json
from pathlib import Path

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy
from cluster.settings import Settings
from deployments.scaling.profile import describe_cpu
from deployments.specs.model_deployment import Scale
from tests.cluster.cli.conftest import make_in_process_cli
from tests.small_bundles import save_table
from training.registry.model_registry import Registry

SLO_S = 2.0


def test_a_deployed_goal_is_profiled_by_the_replica_and_planned_from_there(
    settings: Settings, cluster: Cluster, home: Path, tmp_path: Path
) -> None:
    save_table(tmp_path / "bundle", name="goal")
    version = Registry(settings).publish(tmp_path / "bundle")
    scale = Scale(cpus=0.1, max_replicas=2, slo_p99_s=SLO_S)
    deployment = deploy(settings, cluster, version, lambda status: None, scale=scale)
    shoal = make_in_process_cli(home)

    profiled = shoal("profile", "goal", "--json")
    planned = shoal("plan", "goal", "--rps", "10", "--json")

    assert deployment.scale.slo_p99_s == SLO_S
    assert profiled.returncode == planned.returncode == 0, profiled.stderr + planned.stderr
    described, plan = json.loads(profiled.stdout), json.loads(planned.stdout)["plan"]
    (profile,) = described["profiles"]
    assert (described["slo_p99_s"], described["source"]) == (SLO_S, "where a replica started, or by `shoal profile`")
    assert (profile["variant"], profile["processor"], profile["threads"]) == ("fp32", describe_cpu(), 1)
    assert min(timing["passes"] for timing in profile["passes"]) > 3  # more than a replica without a goal times
    assert profile["request_s"] > 0
    assert described["path_s"] > 0
    assert profile["max_rps"] > 10
    assert (plan["replicas"], plan["slo_p99_s"]) == (1, SLO_S)
    assert f"requests for metadata at {cluster.url}" in plan["overhead"]["source"]
