"""Applications: from the desired state to Ray Serve's configuration, and from that to bound Serve applications.

Deploy walk: cluster.rollout.serve_api
    -> [applications.py] -> deployments.models.replica, deployments.pipelines.replica or deployments.control.app
Serve imports the `bind_` functions by path on the cluster, and calls them with the arguments in the configuration.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from deployments.settings import ServingSettings
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment, Scale

if TYPE_CHECKING:
    # Building the configuration alone does not need Serve, whose import takes a second.
    from ray.serve import Application

CONTROL_APPLICATION = "shoal.control"
"""Name of the control application; a model's name has no dot."""

# Far above our own limit (Limits.max_queue), whose error gives the reason; Serve's does not.
MAX_ONGOING_REQUESTS = 100_000

KeyHolders = dict[str, str]
"""sha256 of a key to the name of its holder."""


def bind_model(args: dict[str, Any]) -> "Application":
    """Bind the application of a model."""
    from deployments.models.replica import ModelReplica

    return ModelReplica.bind(args["endpoint"], args["keys"], args["cache"], args["host"])  # type: ignore[attr-defined, no-any-return]


def bind_pipeline(args: dict[str, Any]) -> "Application":
    """Bind the application of a pipeline."""
    from deployments.pipelines.replica import PipelineReplica

    return PipelineReplica.bind(args["endpoint"], args["keys"], args["host"])  # type: ignore[attr-defined, no-any-return]


def bind_control(args: dict[str, Any]) -> "Application":
    """Bind the control application, with the gRPC gateway."""
    from deployments.control.app import Control
    from deployments.control.grpc_gateway import Gateway

    keys, host = args["keys"], args["host"]
    gateway = Gateway.bind(keys, host, args["grpc_port"])  # type: ignore[attr-defined]
    return Control.bind(keys, host, args["url"], gateway)  # type: ignore[attr-defined, no-any-return]


def build_serve_config(
    deployments: Iterable[DeploymentRecord],
    settings: ServingSettings,
    keys: KeyHolders,
    host: str,
    port: int,
    grpc_port: int,
) -> dict[str, Any]:
    """Build Serve's complete configuration (Ray's ServeDeploySchema); Serve deletes the applications not in it.

    Args:
        deployments: the desired state.
        settings: of this service.
        keys: of the callers.
        host: that every port listens on.
        port: of HTTP.
        grpc_port: of gRPC.
    """
    return {
        "http_options": {"host": host, "port": port, "request_timeout_s": None, "keep_alive_timeout_s": 90},
        # An access log would cost a log record per request, which nobody reads.
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "applications": [
            _build_control_config(keys, host, port, grpc_port),
            *(
                _build_pipeline_config(deployment, keys, host)
                if isinstance(deployment, PipelineDeployment)
                else _build_model_config(deployment, settings, keys, host)
                for deployment in deployments
            ),
        ],
    }


def _build_control_config(keys: KeyHolders, host: str, port: int, grpc_port: int) -> dict[str, Any]:
    # On the head: there the databases are, where they are files.
    actor_options = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    return {
        "name": CONTROL_APPLICATION,
        "route_prefix": "/",
        "import_path": _get_import_path(bind_control),
        "args": {"keys": keys, "host": host, "url": f"http://{host}:{port}", "grpc_port": grpc_port},
        "deployments": [
            {"name": name, "ray_actor_options": actor_options} | _DEPLOYMENT_OPTIONS for name in ("control", "grpc")
        ],
    }


def _build_model_config(
    deployment: ModelDeployment, settings: ServingSettings, keys: KeyHolders, host: str
) -> dict[str, Any]:
    endpoint, cache = deployment.endpoint.model_dump(mode="json"), str(settings.home / "cache")
    args = {"endpoint": endpoint, "keys": keys, "cache": cache, "host": host}
    return _build_application_config(deployment.name, bind_model, args, deployment.scale)


def _build_pipeline_config(deployment: PipelineDeployment, keys: KeyHolders, host: str) -> dict[str, Any]:
    args = {"endpoint": deployment.endpoint.model_dump(mode="json"), "keys": keys, "host": host}
    return _build_application_config(deployment.name, bind_pipeline, args, deployment.scale)


def _build_application_config(
    name: str, bind: Callable[..., "Application"], args: dict[str, Any], scale: Scale
) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": f"/v2/models/{name}",
        "import_path": _get_import_path(bind),
        "args": args,
        "deployments": [
            {
                "name": "replica",
                "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": scale.gpus},
                "autoscaling_config": {
                    "min_replicas": scale.min_replicas,
                    "max_replicas": scale.max_replicas,
                    "target_ongoing_requests": scale.target_ongoing_requests,
                },
            }
            | _DEPLOYMENT_OPTIONS
        ],
    }


def _get_import_path(bind: Callable[..., "Application"]) -> str:
    return f"{bind.__module__}:{bind.__name__}"


_DEPLOYMENT_OPTIONS = {
    "max_ongoing_requests": MAX_ONGOING_REQUESTS,
    # A new replica starts before the old one stops.
    "max_surge_percent": 100,
}
