"""Applications: from the desired state to Ray Serve's configuration, and from that to bound Serve applications.

Deploy walk: cluster.rollout.serve_api
    -> [applications.py]
    -> deployments.models.replica, deployments.pipelines.replica, deployments.control.app or deployments.edge.edge
Serve imports the `bind_` functions by path on the cluster, and calls them with the arguments in the configuration.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from deployments.edge.state import CONTROL, EDGE, GRPC, HEAD_LABEL, Listen
from deployments.settings import ServingSettings
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment, Scale

if TYPE_CHECKING:
    # Building the configuration alone does not need Serve, whose import takes a second.
    from ray.serve import Application

# Far above our own limit (Limits.max_queue), whose error gives the reason; Serve's does not.
MAX_ONGOING_REQUESTS = 100_000
# How long Serve waits for a replica that is told to stop, beyond its requests' own time limit.
STOP_MARGIN_S = 10.0
# Calls that one gRPC gateway has at a time before another one starts.
TARGET_GRPC_CALLS = 64


def bind_model(args: dict[str, Any]) -> "Application":
    """Bind the application of a model."""
    from deployments.models.replica import ModelReplica

    return ModelReplica.bind(args["endpoint"], args["cache"], args["host"])  # type: ignore[attr-defined, no-any-return]


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
    deployments: Iterable[DeploymentRecord], settings: ServingSettings, listen: Listen, url: str
) -> dict[str, Any]:
    """Build Serve's complete configuration (Ray's ServeDeploySchema); Serve deletes the applications not in it.

    Args:
        deployments: the desired state.
        settings: of this service.
        listen: where it listens.
        url: of its HTTP endpoint, for the documentation.
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
                _build_pipeline_config(deployment, listen.host)
                if isinstance(deployment, PipelineDeployment)
                else _build_model_config(deployment, settings, listen.host)
                for deployment in deployments
            ),
        ],
    }


def _build_edge_configs(settings: ServingSettings, listen: Listen) -> Iterator[dict[str, Any]]:
    args = {"host": listen.host, "http_port": listen.http_port, "grpc_port": listen.grpc_port}
    # One that dies is replaced after the first missed check.
    options = {"health_check_period_s": 1.0, "graceful_shutdown_timeout_s": STOP_MARGIN_S}
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
    return _build_scaled_config(GRPC, bind_grpc, {"host": listen.host}, scale, settings.limits.request_timeout_s)


def _build_model_config(deployment: ModelDeployment, settings: ServingSettings, host: str) -> dict[str, Any]:
    endpoint = deployment.endpoint
    args = {"endpoint": endpoint.model_dump(mode="json"), "cache": str(settings.home / "cache"), "host": host}
    timeout_s = endpoint.limits.request_timeout_s
    return _build_scaled_config(deployment.name, bind_model, args, deployment.scale, timeout_s)


def _build_pipeline_config(deployment: PipelineDeployment, host: str) -> dict[str, Any]:
    endpoint = deployment.endpoint
    args = {"endpoint": endpoint.model_dump(mode="json"), "host": host}
    timeout_s = endpoint.limits.request_timeout_s
    return _build_scaled_config(deployment.name, bind_pipeline, args, deployment.scale, timeout_s)


def _build_scaled_config(
    name: str, bind: Callable[..., "Application"], args: dict[str, Any], scale: Scale, request_timeout_s: float
) -> dict[str, Any]:
    deployment = {
        "name": "grpc" if name == GRPC else "replica",
        "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        "graceful_shutdown_timeout_s": request_timeout_s + STOP_MARGIN_S,
        "autoscaling_config": {
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing_requests,
            "policy": {"policy_function": "deployments.scaling.policy:scale_by_ongoing_requests"},
        },
    }
    return _build_config(name, bind, args, deployment | _DEPLOYMENT_OPTIONS)


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
    # Its server drains by itself; Serve's own wait is for handle calls.
    "graceful_shutdown_wait_loop_s": 0.5,
}
