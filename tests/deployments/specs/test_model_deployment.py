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


@pytest.mark.parametrize("version", ["", "3"])
def test_a_request_may_name_the_deployed_version_or_none(version: str) -> None:
    make_endpoint().check_version(version)


@pytest.mark.parametrize("version", ["2", "03", "latest"])
def test_another_version_is_refused_with_the_deployed_one(version: str) -> None:
    with pytest.raises(UnknownVersion, match=f"version '{version}' is not deployed; version 3 is"):
        make_endpoint().check_version(version)
