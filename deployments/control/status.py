"""Status for the catalog and health, inside the cluster: what is deployed, and what Serve says of each application.

Three questions, as Kubernetes' probes ask them: live (this process answers), started (what was deployed when the
cluster came up has been brought up, or has failed; never false again), ready (every deployment answers requests now).
"""

import asyncio
import time
from collections import Counter
from typing import Any, NamedTuple

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

from deployments.control.summary import (
    FAILED_STATUSES,
    NOT_STARTED,
    DeploymentSummary,
    ReplicaWindows,
    summarize_deployments,
)
from deployments.ray_internals import fetch_serve_details
from deployments.settings import ServingSettings
from deployments.specs.deployment import ASLEEP, DeploymentRecord
from deployments.state.canary_store import CanaryStore
from deployments.state.store import DeploymentStore

STATUS_INTERVAL_S = 1.0
# Serve's controller is back within seconds; if not, nobody knows what runs.
MAX_STATUS_AGE_S = 60.0


class ApplicationState(NamedTuple):
    """What Serve says of an application.

    Attributes:
        status: of the application.
        replicas: how many there are in each state.
    """

    status: str
    replicas: dict[str, int]


class DeploymentStatus:
    """What is deployed, and how each deployment is doing."""

    def __init__(self, settings: ServingSettings) -> None:
        self.store = DeploymentStore(settings.platform)
        self._canaries = CanaryStore(settings.platform)
        self._applications: dict[str, ApplicationState] = {}
        self._fetched_s = self._answered_s = float("-inf")
        self._details: dict[str, Any] = {}
        self._details_fetched_s = float("-inf")
        self._has_started = False

    def list_deployed(self) -> dict[str, DeploymentRecord]:
        """List all deployments, of models and pipelines, by name."""
        return {record.name: record for record in self.store.list_records()}

    def fetch_statuses(self) -> dict[str, str]:
        """Get Serve's status of each deployment, or ASLEEP."""
        applications = self._fetch_applications()
        return {name: _get_status(record, applications.get(name)) for name, record in self.list_deployed().items()}

    def is_ready(self) -> bool:
        """Whether every deployment answers requests, whatever else is being deployed beside it.

        One that is deployed for the first time has not been promised to anyone: it does not count before it runs.
        """
        applications, new = self._fetch_applications(), self._list_new()
        return all(
            _is_available(applications.get(name), record)
            for name, record in self.list_deployed().items()
            if name not in new
        )

    def is_model_ready(self, name: str) -> bool:
        """Whether a deployment answers requests; False where none has this name."""
        record = self.list_deployed().get(name)
        return record is not None and _is_available(self._fetch_applications().get(name), record)

    def has_started(self) -> bool:
        """Whether every deployment that the cluster came up with has been brought up, or has failed to be."""
        if not self._has_started:
            applications, new = self._fetch_applications(), self._list_new()
            self._has_started = all(
                _has_settled(applications.get(name), record)
                for name, record in self.list_deployed().items()
                if name not in new
            )
        return self._has_started

    def summarize(self, windows: ReplicaWindows | None) -> list[DeploymentSummary]:
        """Summarize every deployment.

        Args:
            windows: what the replicas report; None where the directory does not answer.
        """
        if time.monotonic() - self._details_fetched_s > STATUS_INTERVAL_S:
            self._details = fetch_serve_details()
            self._details_fetched_s = time.monotonic()
        return summarize_deployments(self.store, self._details, windows, self._canaries.list_active())

    def _list_new(self) -> set[str]:
        """The names that are being deployed, and were not before."""
        return {each.name for each in self.store.list_open_revisions() if each.previous_spec is None}

    def find_sleeping(self, name: str) -> DeploymentRecord | None:
        """Return a deployment that has no replica because nobody calls it; None for another."""
        record = self.list_deployed().get(name)
        is_asleep = record is not None and _get_status(record, self._fetch_applications().get(name)) == ASLEEP
        return record if is_asleep else None

    async def may_sleep(self, name: str) -> bool:
        """Whether a deployment has no replica while nobody calls it."""
        record = (await asyncio.to_thread(self.list_deployed)).get(name)
        return record is not None and record.scale.min_replicas == 0

    def _fetch_applications(self) -> dict[str, ApplicationState]:
        """Fetch Serve's status, at most once per STATUS_INTERVAL_S, whoever calls.

        While Serve's controller restarts, replicas go on answering, and the last status stands.
        """
        if time.monotonic() - self._fetched_s > STATUS_INTERVAL_S:
            try:
                applications = serve.status().applications
                self._applications = {name: self._read_state(name, each) for name, each in applications.items()}
                self._answered_s = time.monotonic()
            except (RayError, RayServeException):
                if time.monotonic() - self._answered_s > MAX_STATUS_AGE_S:
                    raise
            self._fetched_s = time.monotonic()
        return self._applications

    def _read_state(self, name: str, application: ApplicationStatusOverview) -> ApplicationState:
        status = application.status.value
        if status == "DEPLOYING" and not application.deployments and name in self._applications:
            # While Serve builds a changed application, for some seconds, it lists none of its replicas; they go on.
            return ApplicationState(status, self._applications[name].replicas)
        replicas: Counter[str] = Counter()
        for deployment in application.deployments.values():
            # Keys are texts, though Ray 2.60 declares an enum, whose members equal them.
            replicas.update({str(state): count for state, count in deployment.replica_states.items() if count})
        return ApplicationState(status, dict(replicas))


def _get_status(record: DeploymentRecord, application: ApplicationState | None) -> str:
    if application is None:
        return NOT_STARTED
    sleeps = record.scale.min_replicas == 0 and application.status == "RUNNING"
    return ASLEEP if sleeps and not application.replicas.get("RUNNING") else application.status


def _is_available(application: ApplicationState | None, record: DeploymentRecord) -> bool:
    """Whether a replica runs, or the deployment sleeps and wakes for a request."""
    if application is None:
        return False
    return application.replicas.get("RUNNING", 0) > 0 or _get_status(record, application) == ASLEEP


def _has_settled(application: ApplicationState | None, record: DeploymentRecord) -> bool:
    has_failed = application is not None and application.status in FAILED_STATUSES
    return has_failed or _is_available(application, record)
