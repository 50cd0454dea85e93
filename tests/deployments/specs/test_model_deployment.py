"""Model deployments: what is refused, and how a variant is named."""

import pytest
from pydantic import ValidationError

from deployments.errors import UnknownVersion
from deployments.specs.model_deployment import Dtype, ModelEndpoint, Scale


def make_endpoint(dtype: Dtype = "fp32", compiled: bool = False) -> ModelEndpoint:
    return ModelEndpoint(name="flowers", version=3, digest="d", uri="file:///b", dtype=dtype, compile=compiled)


def test_a_scale_whose_maximum_is_below_its_minimum_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_replicas=1 is less than min_replicas=2; raise it"):
        Scale(min_replicas=2)


@pytest.mark.parametrize(
    "value", [{"min_replicas": -1}, {"max_replicas": 0}, {"downscale_to_zero_delay_s": 1}, {"upscale_delay_s": -1}]
)
def test_a_model_may_sleep_but_not_be_nothing(value: dict[str, float]) -> None:
    assert Scale(min_replicas=0).max_replicas == 1
    with pytest.raises(ValidationError, match=next(iter(value))):
        Scale(**({"min_replicas": 0} | value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "compiled", "variant"),
    [
        ("fp32", False, "fp32"),
        ("bf16", False, "bf16"),
        ("fp32", True, "fp32, compiled"),
        ("bf16", True, "bf16, compiled"),
    ],
)
def test_a_variant_is_named_by_precision_and_compilation(dtype: Dtype, compiled: bool, variant: str) -> None:
    assert make_endpoint(dtype, compiled).variant == variant


def test_a_request_may_name_the_deployed_version_or_none_and_another_is_refused_with_the_deployed_one() -> None:
    refusals = {}
    for version in ("", "3", "2", "03", "latest"):
        try:
            make_endpoint().check_version(version)
        except UnknownVersion as error:
            refusals[version] = str(error)

    assert refusals == {
        version: f"version '{version}' is not deployed; version 3 is" for version in ("2", "03", "latest")
    }
