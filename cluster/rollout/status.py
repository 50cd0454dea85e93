"""Status for `shoal status`: what is deployed, beside the state that Ray Serve's REST API reports."""

from typing import Any

from cluster.local.running_cluster import Cluster
from cluster.rollout.serve_api import FAILED_STATUSES, ServeApi, count_running_replicas, describe_failure
from cluster.settings import Settings
from deployments.state.store import DeploymentStore


def list_statuses(settings: Settings, cluster: Cluster) -> list[dict[str, Any]]:
    """Describe every deployed model and pipeline: version, Serve's status and why, replicas, bounds, variant."""
    with ServeApi(settings, cluster) as serve:
        applications = serve.fetch_applications()
    statuses = []
    deployments = DeploymentStore(settings.platform).load()
    for record in deployments.records:
        application = applications.get(record.name, {})
        statuses.append(
            {
                "name": record.name,
                "version": record.endpoint.version,
                "status": application.get("status", "NOT_STARTED"),
                "reason": describe_failure(application) if application.get("status") in FAILED_STATUSES else "",
                "replicas": count_running_replicas(application),
                "min_replicas": record.scale.min_replicas,
                "max_replicas": record.scale.max_replicas,
                "variant": record.endpoint.variant,
            }
        )
    for name, reason in deployments.unreadable.items():
        unknown = {"version": None, "replicas": 0, "min_replicas": None, "max_replicas": None, "variant": ""}
        statuses.append({"name": name, "status": "UNREADABLE", "reason": reason} | unknown)
    return statuses
