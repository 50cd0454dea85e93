"""Status for the catalog and health, inside the cluster: what is deployed, and what Serve says of each application."""

import asyncio
import time

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

from deployments.settings import ServingSettings
from deployments.specs.deployment import ASLEEP, DeploymentRecord
from deployments.state.store import DeploymentStore

STATUS_INTERVAL_S = 1.0
# Serve's controller is back within seconds; if not, nobody knows what runs.
MAX_STATUS_AGE_S = 60.0


class DeploymentStatus:
    """What is deployed, and how each deployment is doing."""

    def __init__(self, settings: ServingSettings) -> None:
        self._store = DeploymentStore(settings.platform)
        self._applications: dict[str, ApplicationStatusOverview] = {}
        self._fetched_s = self._answered_s = float("-inf")

    def list_deployed(self) -> dict[str, DeploymentRecord]:
        """List all deployments, of models and pipelines, by name."""
        return {record.name: record for record in self._store.list_records()}

    def fetch_statuses(self) -> dict[str, str]:
        """Get Serve's status of each deployment, or ASLEEP."""
        applications = self._fetch_applications()
        return {name: _get_status(record, applications.get(name)) for name, record in self.list_deployed().items()}

    def is_ready(self) -> bool:
        """Whether every deployment answers: a replica of it runs, whatever else is deployed beside it, or it sleeps."""
        applications = self._fetch_applications()
        return all(
            _has_running_replica(applications.get(name)) or _get_status(record, applications.get(name)) == ASLEEP
            for name, record in self.list_deployed().items()
        )

    def find_sleeping(self, name: str) -> DeploymentRecord | None:
        """Return a deployment that has no replica because nobody calls it; None for another."""
        record = self.list_deployed().get(name)
        is_asleep = record is not None and _get_status(record, self._fetch_applications().get(name)) == ASLEEP
        return record if is_asleep else None

    async def may_sleep(self, name: str) -> bool:
        """Whether a deployment has no replica while nobody calls it."""
        record = (await asyncio.to_thread(self.list_deployed)).get(name)
        return record is not None and record.scale.min_replicas == 0

    def _fetch_applications(self) -> dict[str, ApplicationStatusOverview]:
        """Fetch Serve's status, at most once per STATUS_INTERVAL_S, whoever calls.

        While Serve's controller restarts, replicas go on answering, and the last status stands.
        """
        if time.monotonic() - self._fetched_s > STATUS_INTERVAL_S:
            try:
                self._applications = serve.status().applications
                self._answered_s = time.monotonic()
            except (RayError, RayServeException):
                if time.monotonic() - self._answered_s > MAX_STATUS_AGE_S:
                    raise
            self._fetched_s = time.monotonic()
        return self._applications


def _get_status(record: DeploymentRecord, application: ApplicationStatusOverview | None) -> str:
    if application is None:
        return "NOT_STARTED"
    status: str = application.status.value
    sleeps = record.scale.min_replicas == 0 and status == "RUNNING" and not _has_running_replica(application)
    return ASLEEP if sleeps else status


def _has_running_replica(application: ApplicationStatusOverview | None) -> bool:
    deployments = application.deployments if application else {}
    # Keys are texts, though Ray 2.60 declares an enum, whose members equal them.
    return any(
        state == "RUNNING" and count > 0
        for deployment in deployments.values()
        for state, count in deployment.replica_states.items()
    )
