"""Replicas report what is inside them, and Serve's policy scales by it."""

import inspect
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.scaling.policy import ONGOING, report_load, scale_by_ongoing_requests

TARGET = 16


def build_context(*ongoing: float, replicas: int = 2, **fields: Any) -> AutoscalingContext:
    """What Serve gives a policy; `ongoing` is what each replica has reported."""
    # What the policy does not read.
    values: dict[str, Any] = dict.fromkeys(list(inspect.signature(AutoscalingContext).parameters))
    metrics = {ONGOING: {f"replica-{index}": value for index, value in enumerate(ongoing)}}
    config = AutoscalingConfig(min_replicas=1, max_replicas=10, target_ongoing_requests=TARGET)
    values |= {"target_num_replicas": replicas, "aggregated_metrics": metrics, "config": config} | fields
    return AutoscalingContext(**values)


def test_a_replica_reports_its_ongoing_requests() -> None:
    assert report_load(3) == {ONGOING: 3.0}


@pytest.mark.parametrize(
    ("ongoing", "replicas"),
    [
        ((0, 0), 0),
        ((1, 0), 1),
        ((TARGET, 0), 1),
        ((TARGET, 0.5), 2),
        ((TARGET, TARGET), 2),
        ((TARGET, TARGET + 1), 3),
        ((5 * TARGET,), 5),
    ],
)
def test_there_are_as_many_replicas_as_bring_each_to_its_target(ongoing: tuple[float, ...], replicas: int) -> None:
    assert scale_by_ongoing_requests(build_context(*ongoing)) == (replicas, {})


@pytest.mark.parametrize("metrics", [None, {}, {ONGOING: {}}, {"other": {"replica": 99.0}}])
def test_without_a_report_the_number_stays(metrics: dict[str, dict[str, float]] | None) -> None:
    assert scale_by_ongoing_requests(build_context(replicas=4, aggregated_metrics=metrics)) == (4, {})
