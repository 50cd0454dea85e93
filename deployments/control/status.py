"""Status for the catalog and health, inside the cluster: what is deployed, and what Serve says of each application."""

import time

from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from deployments.settings import ServingSettings
from deployments.specs.deployment import DeploymentRecord
from deployments.state.store import DeploymentStore

STATUS_INTERVAL_S = 1.0


class DeploymentStatus:
    """What is deployed, and how each deployment is doing."""

    def __init__(self, settings: ServingSettings) -> None:
        self._store = DeploymentStore(settings.platform)
        self._applications: dict[str, ApplicationStatusOverview] = {}
        self._fetched_s = float("-inf")

    def list_deployed(self) -> dict[str, DeploymentRecord]:
        """List all deployments, of models and pipelines, by name."""
        return {record.name: record for record in self._store.list_records()}

    def fetch_statuses(self) -> dict[str, str]:
        """Get Serve's status of each deployment; fetched at most once per STATUS_INTERVAL_S, whoever calls."""
        if time.monotonic() - self._fetched_s > STATUS_INTERVAL_S:
            self._applications, self._fetched_s = serve.status().applications, time.monotonic()
        applications = self._applications
        return {
            name: applications[name].status.value if name in applications else "NOT_STARTED"
            for name in self.list_deployed()
        }

    def is_ready(self) -> bool:
        """Whether every deployment runs."""
        return all(status == "RUNNING" for status in self.fetch_statuses().values())
