"""A served model with a latency goal: it profiles itself once, and refuses a goal that it cannot meet."""

import asyncio
from pathlib import Path

import pytest

from deployments.models.served_model import ServedModel
from deployments.scaling.measure import measure_request_cost
from deployments.specs.model_deployment import ModelEndpoint
from deployments.specs.pipeline import PipelineScale
from training.bundle.verify import verify_bundle
from training.errors import UserError


@pytest.fixture
def endpoint(table_bundle: Path) -> ModelEndpoint:
    digest = verify_bundle(table_bundle).digest
    return ModelEndpoint(name="flowers", version=1, digest=digest, uri=str(table_bundle))


def test_the_next_replica_takes_over_the_profile_with_what_a_request_costs(
    endpoint: ModelEndpoint, tmp_path: Path
) -> None:
    first = ServedModel(endpoint, tmp_path / "cache", slo_p99_s=5.0, profile_s=0.02)
    profile = asyncio.run(measure_request_cost(first))

    second = ServedModel(endpoint, tmp_path / "cache", slo_p99_s=5.0, profile_s=0.01)

    assert second.profile == profile
    assert profile.request_s is not None
    assert 0 < profile.request_s < 0.1
    assert profile.row_s is not None
    assert 0 < profile.row_s < 0.01
    assert profile.budget_s == 0.02
    assert profile.passes[0].rows == 1


def test_a_goal_that_a_single_row_exceeds_is_refused_with_both_times(endpoint: ModelEndpoint, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"flowers \(fp32\) cannot answer within slo_p99_s=1e-09: one row takes [\d.e-]+ s"
    ):
        ServedModel(endpoint, tmp_path / "cache", slo_p99_s=1e-9, profile_s=0.0)


def test_a_pipeline_has_no_goal_of_its_own() -> None:
    with pytest.raises(ValueError, match="give each of them its goal, `shoal deploy NAME --slo-p99 SECONDS`"):
        PipelineScale(slo_p99_s=0.1)
