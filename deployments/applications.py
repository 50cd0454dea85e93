"""Applications: from what shall run to what Ray Serve takes.

Deploy walk: cluster.cli.app deploy -> [apps.py] -> replica.py -> training.bundle.bundle
Serve imports `model`, `pipeline` and `control` by path on the cluster, with the arguments that the configuration
carries.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from deployments.settings import ServingSettings
from deployments.specs.model import Deployment, Scale
from deployments.specs.record import DeploymentRecord, PipelineDeployment

if TYPE_CHECKING:
    # Whoever only writes the configuration is spared a second of imports.
    from ray.serve import Application

CONTROL = "shoal.control"
"""Name of the control application; a model's name has no dot."""

# Serve's own limit, far above ours (Limits.max_queue), so that the refusal a caller sees is ours, with its reason.
MAX_ONGOING_REQUESTS = 100_000

Keys = dict[str, str]
"""sha256 of a key -> the name of its holder."""


def bind_model(args: dict[str, Any]) -> "Application":
    """Bind one model's application."""
    from deployments.models.replica import Replica

    return Replica.bind(args["endpoint"], args["keys"], args["cache"], args["host"])  # type: ignore[attr-defined, no-any-return]


def bind_pipeline(args: dict[str, Any]) -> "Application":
    """Bind one pipeline's application."""
    from deployments.pipelines.replica import PipelineReplica

    return PipelineReplica.bind(args["endpoint"], args["keys"], args["host"])  # type: ignore[attr-defined, no-any-return]


def bind_control(args: dict[str, Any]) -> "Application":
    """Bind the control application, which gRPC's gateway belongs to."""
    from deployments.control.app import Control
    from deployments.control.grpc_gateway import Gateway

    keys, host = args["keys"], args["host"]
    gateway = Gateway.bind(keys, host, args["grpc_port"])  # type: ignore[attr-defined]
    return Control.bind(keys, host, gateway)  # type: ignore[attr-defined, no-any-return]


def build_serve_config(
    deployments: Iterable[DeploymentRecord], settings: ServingSettings, keys: Keys, host: str, port: int, grpc_port: int
) -> dict[str, Any]:
    """Write the whole configuration (Ray's ServeDeploySchema): what is not in it, Serve deletes."""
    return {
        "http_options": {"host": host, "port": port, "request_timeout_s": None, "keep_alive_timeout_s": 90},
        # Each request would otherwise make a log record, to be thrown away.
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "applications": [
            _control_config(keys, host, grpc_port),
            *(
                _pipeline_config(each, keys, host)
                if isinstance(each, PipelineDeployment)
                else _model_config(each, settings, keys, host)
                for each in deployments
            ),
        ],
    }


def _control_config(keys: Keys, host: str, grpc_port: int) -> dict[str, Any]:
    # Where the registry's and the platform's databases are, if they are files.
    on_head = {"ray_actor_options": {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}}
    return {
        "name": CONTROL,
        "route_prefix": "/",
        "import_path": "deployments.applications:control",
        "args": {"keys": keys, "host": host, "grpc_port": grpc_port},
        "deployments": [{"name": name} | on_head | _UPDATES for name in ("control", "grpc")],
    }


def _model_config(deployment: Deployment, settings: ServingSettings, keys: Keys, host: str) -> dict[str, Any]:
    args = {
        "endpoint": deployment.endpoint.model_dump(mode="json"),
        "keys": keys,
        "cache": str(settings.home / "cache"),
        "host": host,
    }
    return _application(deployment.name, "deployments.applications:model", args, deployment.scale)


def _pipeline_config(deployment: PipelineDeployment, keys: Keys, host: str) -> dict[str, Any]:
    args = {"endpoint": deployment.endpoint.model_dump(mode="json"), "keys": keys, "host": host}
    return _application(deployment.name, "deployments.applications:pipeline", args, deployment.scale)


def _application(name: str, path: str, args: dict[str, Any], scale: Scale) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": f"/v2/models/{name}",
        "import_path": path,
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
            | _UPDATES
        ],
    }


_UPDATES = {
    "max_ongoing_requests": MAX_ONGOING_REQUESTS,
    # The new replica starts before the old one stops.
    "max_surge_percent": 100,
}
