"""Serve's configuration: what it imports exists, and it carries digests of keys and no keys."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from deployments.applications import CONTROL_APPLICATION, bind_control, bind_model, bind_pipeline, build_serve_config
from deployments.pipelines import ModelNode, Pipeline
from deployments.settings import ServingSettings
from deployments.specs.deployment import PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale

MODEL = ModelDeployment(
    endpoint=ModelEndpoint(name="flowers", version=1, digest="d", uri="file:///b"),
    scale=Scale(max_replicas=3, gpus=0.5),
)
PIPELINE = PipelineDeployment(
    endpoint=PipelineEndpoint(
        name="p", version=1, pipeline=Pipeline(name="p", root=ModelNode(model="flowers")), signatures={}
    )
)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    settings = ServingSettings(home=tmp_path)
    return build_serve_config([MODEL, PIPELINE], settings, {"digest": "admin"}, "127.0.0.1", 8000, 8001)


def test_serve_accepts_the_configuration(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)

    assert [each.name for each in schema.applications] == [CONTROL_APPLICATION, "flowers", "p"]
    assert [each.route_prefix for each in schema.applications] == ["/", "/v2/models/flowers", "/v2/models/p"]


def test_every_import_path_resolves_to_the_function_that_binds_the_application(config: dict[str, Any]) -> None:
    functions = []
    for application in config["applications"]:
        module, _, name = application["import_path"].partition(":")
        functions.append(getattr(importlib.import_module(module), name))

    assert functions == [bind_control, bind_model, bind_pipeline]


def test_every_application_binds_the_deployments_that_its_configuration_names(config: dict[str, Any]) -> None:
    binds = (bind_control, bind_model, bind_pipeline)
    for application, bind in zip(config["applications"], binds, strict=True):
        bound = bind(application["args"])
        configured = {deployment["name"] for deployment in application["deployments"]}

        assert bound._bound_deployment.name in configured
    # The gRPC gateway is an argument of the control application.
    gateway = bind_control(config["applications"][0]["args"])._bound_deployment.init_args[-1]
    assert gateway._bound_deployment.name == "grpc"


def test_a_models_scale_is_that_of_its_deployment(config: dict[str, Any]) -> None:
    (deployment,) = config["applications"][1]["deployments"]

    assert deployment["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 16}
    assert deployment["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 0.5}
