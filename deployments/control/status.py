"""What is deployed and how that fares: the noted deployments beside Serve's own status. Reads no registry."""

import time

from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from deployments.settings import ServingSettings
from deployments.specs.record import DeploymentRecord
from deployments.state.store import DeploymentStore

STATUS_S = 1.0


class DeploymentStatus:
    """Answers from the noted deployments and Serve."""

    def __init__(self, settings: ServingSettings) -> None:
        self._state = DeploymentStore(settings.platform)
        self._applications: dict[str, ApplicationStatusOverview] = {}
        self._asked_s = float("-inf")

    def list_deployed(self) -> dict[str, DeploymentRecord]:
        """All noted deployments, models' and pipelines', by name."""
        return {deployment.name: deployment for deployment in self._state.list_records()}

    def fetch_statuses(self) -> dict[str, str]:
        """Serve's status of each deployed model, at most a second old: anybody may ask for it."""
        if time.monotonic() - self._asked_s > STATUS_S:
            self._applications, self._asked_s = serve.status().applications, time.monotonic()
        applications = self._applications
        return {
            name: applications[name].status.value if name in applications else "NOT_STARTED"
            for name in self.list_deployed()
        }
