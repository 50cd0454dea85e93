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
    store = DeploymentStore(settings.platform)
    deployments, rolling_out = store.load(), {revision.name for revision in store.list_open_revisions()}
    for record in deployments.records:
        application = applications.get(record.name, {})
        statuses.append(
            {
                "name": record.name,
                "version": record.endpoint.version,
                "status": application.get("status", "NOT_STARTED"),
                "reason": _describe(application, record.name in rolling_out),
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


def _describe(application: dict[str, Any], is_rolling_out: bool) -> str:
    """Why a deployment does not run, or what goes on with it; empty for one that is as it shall be."""
    if application.get("status") in FAILED_STATUSES:
        return describe_failure(application)
    if is_rolling_out:
        return "being deployed"
    return ""
