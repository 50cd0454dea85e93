"""Applications: from the desired state to Ray Serve's configuration, and from that to bound Serve applications.

Deploy walk: cluster.rollout.serve_api
    -> [applications.py]
    -> deployments.models.replica, deployments.pipelines.replica, deployments.control.app or deployments.edge.edge
Serve imports the `bind_` functions by path on the cluster, and calls them with the arguments in the configuration.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from deployments.edge.state import CANARY_SUFFIX, CONTROL, EDGE, GRPC, HEAD_LABEL, Listen
from deployments.models import preload
from deployments.settings import Limits, ServingSettings
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment, Scale

if TYPE_CHECKING:
    # Building the configuration alone does not need Serve, whose import takes a second.
    from ray.serve import Application

# Far above our own limit (Limits.max_queue), whose error gives the reason; Serve's does not.
MAX_ONGOING_REQUESTS = 100_000
# How long Serve waits for a replica that is told to stop, beyond its requests' own time limit.
STOP_MARGIN_S = 10.0
# Replicas tell Serve's controller their load so often; by default every 10 s, and in Ray 2.60 only this field changes
# that: the variables RAY_SERVE_*_AUTOSCALING_METRIC_PUSH_INTERVAL_S, which shall replace it, are read by nothing.
METRICS_INTERVAL_S = 1.0
# Where a model may sleep, the call that wakes it waits for the handle's next count of calls and its next report: Serve
# 2.60 reports at once, but the count of before.
SLEEPER_METRICS_INTERVAL_S = 0.2
# The policy gets means over this time.
LOOK_BACK_S = 4.0
# Calls that one gRPC gateway has at a time before another one starts.
TARGET_GRPC_CALLS = 64


def bind_model(args: dict[str, Any]) -> "Application":
    """Bind the application of a model."""
    from deployments.models.replica import ModelReplica

    # A canary's name of its application is not its model's.
    arguments = (args["endpoint"], args["cache"], args["host"], args.get("slo_p99_s"), args.get("application", ""))
    return ModelReplica.bind(*arguments)  # type: ignore[attr-defined, no-any-return]


def bind_pipeline(args: dict[str, Any]) -> "Application":
    """Bind the application of a pipeline."""
    from deployments.pipelines.replica import PipelineReplica

    return PipelineReplica.bind(args["endpoint"], args["host"])  # type: ignore[attr-defined, no-any-return]


def bind_control(args: dict[str, Any]) -> "Application":
    """Bind the control application."""
    from deployments.control.app import Control

    return Control.bind(args["host"], args["url"])  # type: ignore[attr-defined, no-any-return]


def bind_grpc(args: dict[str, Any]) -> "Application":
    """Bind the application of the gRPC gateways."""
    from deployments.control.grpc_gateway import Gateway

    return Gateway.bind(args["host"])  # type: ignore[attr-defined, no-any-return]


def bind_edge(args: dict[str, Any]) -> "Application":
    """Bind the application of the edge on one or several nodes."""
    from deployments.edge.edge import Edge

    return Edge.bind(args["host"], args["http_port"], args["grpc_port"])  # type: ignore[attr-defined, no-any-return]


def build_serve_config(
    deployments: Iterable[DeploymentRecord],
    settings: ServingSettings,
    listen: Listen,
    url: str,
    replicas: Mapping[str, int] = MappingProxyType({}),
    canaries: Iterable[ModelDeployment] = (),
) -> dict[str, Any]:
    """Build Serve's complete configuration (Ray's ServeDeploySchema); Serve deletes the applications not in it.

    Args:
        deployments: the desired state.
        settings: of this service.
        listen: where it listens.
        url: of its HTTP endpoint, for the documentation.
        replicas: how many replicas there are of what may sleep; a change of it starts with as many, or one.
        canaries: versions that run beside the deployed ones.
    """
    return {
        # Requests come from the edge, straight to the replicas.
        "proxy_location": "Disabled",
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"}
        | ({"encoding": "JSON"} if settings.log_format == "json" else {}),
        "applications": [
            *_build_edge_configs(settings, listen),
            _build_control_config(listen.host, url),
            _build_grpc_config(settings, listen),
            *(
                _build_pipeline_config(deployment, listen.host, replicas.get(deployment.name, 1))
                if isinstance(deployment, PipelineDeployment)
                else _build_model_config(deployment, settings, listen.host, replicas.get(deployment.name, 1))
                for deployment in deployments
            ),
            *(_build_model_config(_keep_awake(each), settings, listen.host, suffix=CANARY_SUFFIX) for each in canaries),
        ],
    }


def _build_edge_configs(settings: ServingSettings, listen: Listen) -> Iterator[dict[str, Any]]:
    args = {"host": listen.host, "http_port": listen.http_port, "grpc_port": listen.grpc_port}
    # One that dies is replaced after the first missed check.
    options = {
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 4.0,
        "graceful_shutdown_timeout_s": STOP_MARGIN_S,
    }
    yield _build_config(EDGE, bind_edge, args, {"name": "edge", "ray_actor_options": ON_HEAD} | options)
    if settings.edge.nodes > 1:
        elsewhere = {
            "name": "edge",
            "num_replicas": settings.edge.nodes - 1,
            "max_replicas_per_node": 1,
            "ray_actor_options": {"num_cpus": 0, "label_selector": {HEAD_LABEL: "!true"}},
        }
        yield _build_config(f"{EDGE}.nodes", bind_edge, args, elsewhere | options)


def _build_control_config(host: str, url: str) -> dict[str, Any]:
    args = {"host": host, "url": url}
    return _build_config(
        CONTROL, bind_control, args, {"name": "control", "ray_actor_options": ON_HEAD} | _DEPLOYMENT_OPTIONS
    )


def _build_grpc_config(settings: ServingSettings, listen: Listen) -> dict[str, Any]:
    scale = Scale(
        min_replicas=1, max_replicas=settings.edge.grpc_gateways, target_ongoing_requests=TARGET_GRPC_CALLS, cpus=0
    )
    return _build_scaled_config(GRPC, bind_grpc, {"host": listen.host}, scale, settings.limits)


def _build_model_config(
    deployment: ModelDeployment, settings: ServingSettings, host: str, replicas: int = 1, suffix: str = ""
) -> dict[str, Any]:
    endpoint, name = deployment.endpoint, deployment.name + suffix
    args: dict[str, Any] = {
        "endpoint": endpoint.model_dump(mode="json"),
        "cache": str(settings.home / "cache"),
        "host": host,
    }
    if suffix:
        args["application"] = name
    if deployment.scale.slo_p99_s is not None:
        # Another goal is another number of rows per pass: new replicas.
        args["slo_p99_s"] = deployment.scale.slo_p99_s
    config = _build_scaled_config(name, bind_model, args, deployment.scale, endpoint.limits, replicas)
    config["deployments"][0]["ray_actor_options"]["runtime_env"] = preload.RUNTIME_ENV
    return config


def _keep_awake(canary: ModelDeployment) -> ModelDeployment:
    """A canary that slept could not be compared."""
    scale = canary.scale.model_copy(update={"min_replicas": max(1, canary.scale.min_replicas)})
    return canary.model_copy(update={"scale": scale})


def _build_pipeline_config(deployment: PipelineDeployment, host: str, replicas: int) -> dict[str, Any]:
    endpoint = deployment.endpoint
    args = {"endpoint": endpoint.model_dump(mode="json"), "host": host}
    return _build_scaled_config(deployment.name, bind_pipeline, args, deployment.scale, endpoint.limits, replicas)


def _build_scaled_config(
    name: str,
    bind: Callable[..., "Application"],
    args: dict[str, Any],
    scale: Scale,
    limits: Limits,
    replicas: int = 1,
) -> dict[str, Any]:
    deployment = {
        "name": "grpc" if name == GRPC else "replica",
        "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        "graceful_shutdown_timeout_s": limits.request_timeout_s + STOP_MARGIN_S,
        "autoscaling_config": _build_autoscaling_config(scale, limits, replicas),
    }
    return _build_config(name, bind, args, deployment | _DEPLOYMENT_OPTIONS)


def _build_autoscaling_config(scale: Scale, limits: Limits, replicas: int) -> dict[str, Any]:
    # What is to sleep starts awake: that one replica runs shows that the version works.
    first = {} if scale.min_replicas else {"initial_replicas": min(max(1, replicas), scale.max_replicas)}
    # The policy has the delays; Serve's own, which keep only the last of the recommendations, would come on top.
    no_delays = {"upscale_delay_s": 0, "downscale_delay_s": 0, "downscale_to_zero_delay_s": 0}
    return {
        "min_replicas": scale.min_replicas,
        "max_replicas": scale.max_replicas,
        "target_ongoing_requests": scale.target_ongoing_requests,
        "metrics_interval_s": METRICS_INTERVAL_S if scale.min_replicas else SLEEPER_METRICS_INTERVAL_S,
        "look_back_period_s": LOOK_BACK_S,
        "policy": {
            "policy_function": "deployments.scaling.policy:ReplicaPolicy",
            "policy_kwargs": {
                "upscale_delay_s": scale.upscale_delay_s,
                "downscale_delay_s": scale.downscale_delay_s,
                "downscale_to_zero_delay_s": scale.downscale_to_zero_delay_s,
                "pass_rows": limits.max_batch_rows,
                "slo_p99_s": scale.slo_p99_s,
                "shares_cores": 0 < scale.cpus < 1,
            },
        },
        **no_delays,
        **first,
    }


def _build_config(
    name: str, bind: Callable[..., "Application"], args: dict[str, Any], deployment: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": None,
        "import_path": f"{bind.__module__}:{bind.__name__}",
        "args": args,
        "deployments": [deployment],
    }


# There the databases are, where they are files.
ON_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}

_DEPLOYMENT_OPTIONS = {
    "max_ongoing_requests": MAX_ONGOING_REQUESTS,
    # A new replica starts before the old one stops.
    "max_surge_percent": 100,
    # The edges see at once that a replica does not answer; after three checks without an answer it is replaced.
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 4.0,
    # Its server drains by itself; Serve's own wait is for handle calls.
    "graceful_shutdown_wait_loop_s": 0.5,
}
