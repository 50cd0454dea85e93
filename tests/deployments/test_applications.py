"""Serve's configuration: what it imports exists, and it carries neither keys nor their digests."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from deployments.applications import (
    bind_control,
    bind_edge,
    bind_grpc,
    bind_model,
    bind_pipeline,
    build_serve_config,
)
from deployments.edge.state import CONTROL, EDGE, GRPC, HEAD_LABEL, Listen
from deployments.models.preload import RUNTIME_ENV
from deployments.pipelines import ModelNode, Pipeline
from deployments.scaling.policy import ReplicaPolicy
from deployments.settings import EdgeSettings, ServingSettings
from deployments.specs.deployment import PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale

LISTEN = Listen("127.0.0.1", 8000, 8001)
URL = "http://127.0.0.1:8000"
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
    return build_serve_config([MODEL, PIPELINE], ServingSettings(home=tmp_path), LISTEN, URL)


def find_application(config: dict[str, Any], name: str) -> dict[str, Any]:
    (application,) = [each for each in config["applications"] if each["name"] == name]
    return application  # type: ignore[no-any-return]


def test_serve_accepts_the_configuration_and_takes_no_requests_itself(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)

    assert [each.name for each in schema.applications] == [EDGE, CONTROL, GRPC, "flowers", "p"]
    assert {each.route_prefix for each in schema.applications} == {None}
    assert schema.proxy_location == "Disabled"


def test_every_import_path_resolves_to_the_function_that_binds_the_application(config: dict[str, Any]) -> None:
    functions = []
    for application in config["applications"]:
        module, _, name = application["import_path"].partition(":")
        functions.append(getattr(importlib.import_module(module), name))

    assert functions == [bind_edge, bind_control, bind_grpc, bind_model, bind_pipeline]


def test_every_application_binds_the_deployment_that_its_configuration_names(config: dict[str, Any]) -> None:
    binds = (bind_edge, bind_control, bind_grpc, bind_model, bind_pipeline)
    for application, bind in zip(config["applications"], binds, strict=True):
        bound = bind(application["args"])
        (deployment,) = application["deployments"]

        assert bound._bound_deployment.name == deployment["name"]


def test_the_name_of_an_application_of_shoals_own_is_no_models_name() -> None:
    for name in (EDGE, CONTROL, GRPC):
        with pytest.raises(ValueError, match="name"):
            Pipeline(name=name, root=ModelNode(model="flowers"))
        with pytest.raises(ValueError, match="model"):
            ModelNode(model=name)


def test_a_models_scale_is_that_of_its_deployment(config: dict[str, Any]) -> None:
    (deployment,) = find_application(config, "flowers")["deployments"]
    scaling = deployment["autoscaling_config"]
    policy = scaling["policy"]
    module, _, name = policy["policy_function"].partition(":")

    bounds = {key: scaling[key] for key in ("min_replicas", "max_replicas", "target_ongoing_requests")}
    assert bounds == {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 16}
    assert getattr(importlib.import_module(module), name) is ReplicaPolicy
    ReplicaPolicy(**policy["policy_kwargs"])
    assert deployment["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 0.5, "runtime_env": RUNTIME_ENV}


@pytest.mark.parametrize(("running", "first"), [(None, 1), (0, 1), (2, 2), (9, 3)])
def test_what_may_sleep_starts_awake_and_a_change_keeps_its_replicas(
    tmp_path: Path, running: int | None, first: int
) -> None:
    sleeper = MODEL.model_copy(update={"scale": Scale(min_replicas=0, max_replicas=3)})
    replicas = {} if running is None else {sleeper.name: running}

    config = build_serve_config([sleeper], ServingSettings(home=tmp_path), LISTEN, URL, replicas)

    ServeDeploySchema.model_validate(config)
    (deployment,) = find_application(config, sleeper.name)["deployments"]
    assert deployment["autoscaling_config"]["initial_replicas"] == first
    assert deployment["autoscaling_config"]["min_replicas"] == 0


def test_what_never_sleeps_keeps_the_replicas_that_serve_wants_through_a_change(config: dict[str, Any]) -> None:
    (deployment,) = find_application(config, "flowers")["deployments"]

    assert "initial_replicas" not in deployment["autoscaling_config"]


def test_a_replica_has_more_time_to_stop_than_a_request_may_take(config: dict[str, Any]) -> None:
    (deployment,) = find_application(config, "flowers")["deployments"]

    assert deployment["graceful_shutdown_timeout_s"] > MODEL.endpoint.limits.request_timeout_s


def test_the_head_has_an_edge_and_each_other_node_one_at_most(tmp_path: Path) -> None:
    settings = ServingSettings(home=tmp_path, edge=EdgeSettings(nodes=3))

    config = build_serve_config([], settings, LISTEN, URL)

    ServeDeploySchema.model_validate(config)
    (head,) = find_application(config, EDGE)["deployments"]
    (nodes,) = find_application(config, f"{EDGE}.nodes")["deployments"]
    assert "num_replicas" not in head
    assert "node:__internal_head__" in head["ray_actor_options"]["resources"]
    assert (nodes["num_replicas"], nodes["max_replicas_per_node"]) == (2, 1)
    assert nodes["ray_actor_options"]["label_selector"] == {HEAD_LABEL: "!true"}


def test_there_are_as_many_grpc_gateways_as_the_setting_allows(tmp_path: Path) -> None:
    settings = ServingSettings(home=tmp_path, edge=EdgeSettings(grpc_gateways=7))

    (deployment,) = find_application(build_serve_config([], settings, LISTEN, URL), GRPC)["deployments"]

    assert deployment["autoscaling_config"]["max_replicas"] == 7


def test_warnings_and_errors_alone_are_logged_as_the_guide_says(config: dict[str, Any]) -> None:
    assert config["logging_config"] == {"enable_access_log": False, "log_level": "WARNING"}
