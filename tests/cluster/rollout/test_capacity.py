"""What no node can hold is refused, and what waits for room says so; no cluster."""

from typing import Any

import pytest

from cluster.rollout import capacity
from cluster.rollout.capacity import CapacityWatch, reject_oversized
from deployments.specs.model_deployment import Scale
from training.errors import UserError

CPUS: dict[str, float] = {"CPU": 6}


@pytest.mark.parametrize(
    ("scale", "nodes", "message"),
    [
        (Scale(gpus=1), [CPUS], "m: a replica needs 1 CPU, 1 GPU, and no node has so much (6 CPU, 0 GPU); --gpus 0"),
        (Scale(min_replicas=0, cpus=100), [CPUS], "m: a replica needs 100 CPU"),  # it must have room to wake
        (Scale(cpus=100), [CPUS, CPUS], "needs 100 CPU, and no node has so much (6 CPU, 0 GPU, 6 CPU, 0 GPU); ask"),
        (Scale(min_replicas=9, max_replicas=9), [CPUS, {"CPU": 2}], "at least 9 replicas of 1 CPU do not fit"),
    ],
)
def test_what_no_node_can_hold_is_refused(scale: Scale, nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(UserError) as raised:
        reject_oversized("m", scale, nodes)

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("scale", "more"),
    [
        (Scale(cpus=6), {"cpus": 6.1}),
        (Scale(cpus=0, gpus=0), {"gpus": 1}),
        (Scale(cpus=0.1, min_replicas=60, max_replicas=61), {"min_replicas": 61}),
    ],
)
def test_what_an_empty_node_could_hold_is_not_and_a_little_more_is(scale: Scale, more: dict[str, float]) -> None:
    refused = []
    for each in (scale, scale.model_copy(update=more)):
        try:
            reject_oversized("m", each, [CPUS])
        except UserError:
            refused.append(each)

    assert refused == [scale.model_copy(update=more)]


class FullCluster:
    """Serve's API of a node whose one CPU is taken, as Ray 2.5x reports it."""

    def __init__(self) -> None:
        self.demands = [{"CPU": 0.7}]

    def fetch_usage(self) -> tuple[Any, Any]:
        return [{"CPU": (0.6, 1.0), "memory": (0.0, 1e9)}], self.demands


APPLICATIONS = {
    "digits": {"deployments": {"replica": {"required_resources": {"CPU": 0.6}, "replicas": [{"node_id": "a"}]}}},
    "m": {"deployments": {"replica": {"required_resources": {"CPU": 0.7}, "replicas": [{"node_id": None}]}}},
}


def test_a_deployment_that_waits_for_room_says_what_it_needs_and_who_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "CHECK_INTERVAL_S", 0)
    statuses: list[str] = []
    serve: Any = FullCluster()
    watch = CapacityWatch(serve, {"m": Scale(cpus=0.7)}, statuses.append)

    watch.report("m DEPLOYING")
    watch.observe(APPLICATIONS)
    watch.report("m DEPLOYING")
    serve.demands = []
    watch.observe(APPLICATIONS)
    watch.report("m RUNNING")

    assert statuses == [
        "m DEPLOYING",
        "waiting for room: a replica of m needs 0.7 CPU; 0.4 of 1 CPU free (held by digits); "
        "`shoal undeploy` something, ask for less with --cpus, or start the cluster with more (SHOAL_CPUS)",
        "m RUNNING",
    ]
