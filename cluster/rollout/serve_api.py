"""Serve API: Ray Serve's REST API: the whole configuration in, the status of every application out."""

import time
from collections.abc import Callable
from typing import Any

import httpx

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from deployments.applications import build_serve_config
from deployments.control.summary import FAILED_STATUSES, describe_failure
from deployments.edge.state import Listen
from deployments.specs.deployment import DeploymentRecord
from deployments.state.canary_store import CanaryStore
from training.errors import ServiceError
from training.registry.process_identity import ProcessIdentity

# Each answer costs the dashboard CPU time, which a replica that starts needs.
POLL_INTERVAL_S = 0.3
# The dashboard's own limit of a listing.
MAX_NODES = 10_000

OnStatus = Callable[[str], None]
"""Called with the status of all applications, in one line."""

NodeUsage = dict[str, tuple[float, float]]
"""How much of each resource of a node is used, and its total."""

Applications = dict[str, Any]
"""Serve's status of each application, by name."""


class ClusterEnded(ServiceError):
    """The cluster ended meanwhile: another command stopped it, or it crashed."""


class ConfigRefused(ServiceError):
    """Ray Serve read the configuration, and refused it."""


class ServeUnreachable(ServiceError):
    """Ray Serve's API does not answer, which tells nothing of what was asked of it."""


class ServeApi:
    """A client of one cluster's Serve API; use as a context manager."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings, self._cluster = settings, cluster
        token = secrets.read_secret(settings.home, secrets.RAY_TOKEN)
        self._http = httpx.Client(
            base_url=cluster.dashboard_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            # A proxy named by the environment would be sent the token.
            trust_env=False,
        )

    def __enter__(self) -> "ServeApi":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def put_config(self, records: list[DeploymentRecord]) -> None:
        """Declare all that shall run; unchanged applications keep their replicas, others than these are deleted.

        Raises:
            ConfigRefused: Serve refuses the configuration.
            ServeUnreachable: it does not answer.
            ClusterEnded: there is no Serve any more.
        """
        settings, cluster = self._settings, self._cluster
        listen = Listen(settings.host, cluster.http_port, cluster.grpc_port)
        canaries = [each.spec.deployment for each in CanaryStore(settings.platform).list_active() if each.is_up]
        try:
            config = build_serve_config(
                records, settings, listen, cluster.url, replicas=self._count_wanted(records), canaries=canaries
            )
            response = self._http.put("/api/serve/applications/", json=config)
        except httpx.HTTPError as error:
            self._require_running()
            raise ServeUnreachable(
                f"Ray Serve does not answer: {error or type(error).__name__}; see `shoal logs`"
            ) from error
        if response.is_error:
            lines = response.text.strip().splitlines() or ["no reason given"]
            raise ConfigRefused(f"Ray Serve refused the configuration: {response.status_code} {lines[-1]}")

    def _count_wanted(self, records: list[DeploymentRecord]) -> dict[str, int]:
        """Count the replicas that Serve wants of what may sleep, for a change to begin with, whatever its load."""
        names = {record.name for record in records if record.scale.min_replicas == 0}
        applications = self.fetch_applications() if names else {}
        targets = {
            name: applications.get(name, {}).get("deployments", {}).get("replica", {}).get("target_num_replicas")
            for name in names
        }
        return {name: target for name, target in targets.items() if target}

    def fetch_applications(self) -> Applications:
        """Fetch the status of every application."""
        response = self._http.get("/api/serve/applications/")
        response.raise_for_status()
        applications: Applications = response.json()["applications"]
        return applications

    def wait(
        self, is_done: Callable[[Applications], bool], on_status: OnStatus, timeout_s: float | None = None
    ) -> None:
        """Poll until `is_done`.

        Raises:
            ServiceError: not done within the time, by default deploy_timeout_s; also what `is_done` raises.
            ServeUnreachable: nor is its status known at the end.
            ClusterEnded: nothing goes on any more.
        """
        timeout_s = self._settings.deploy_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        failure = ""
        while time.monotonic() < deadline:
            try:
                applications = self.fetch_applications()
            except (httpx.HTTPError, ValueError, KeyError) as error:
                self._require_running()
                # What was asked for goes on; only the view of it is lost for a while.
                failure = f"; Ray Serve's status cannot be fetched: {error or type(error).__name__}"
                on_status(f"waiting for Ray Serve's status: {type(error).__name__}")
                time.sleep(POLL_INTERVAL_S)
                continue
            failure = ""
            on_status(", ".join(f"{name} {applications[name]['status']}" for name in sorted(applications)))
            if is_done(applications):
                return
            time.sleep(POLL_INTERVAL_S)
        message = f"not done within {timeout_s:g} s{failure}; `shoal status` shows the state"
        raise ServeUnreachable(message) if failure else ServiceError(message)

    def _require_running(self) -> None:
        """Raise ClusterEnded if the cluster's head process, which all others end with, has ended."""
        if ProcessIdentity.parse(self._cluster.head).has_ended():
            raise ClusterEnded(
                f"the cluster of {self._settings.home} has ended meanwhile, by `shoal down` or a crash; start it with "
                "`shoal up`"
            )

    def is_routed(self, name: str) -> bool:
        """Whether requests to a model's path still reach an application of that name."""
        from deployments.client.local import build_verification

        key = secrets.read_secret(self._settings.home, secrets.ADMIN_KEY)
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{self._cluster.url}/v2/models/{name}/ready"
        try:
            with httpx.Client(verify=build_verification(url), trust_env=False) as http:
                return http.get(url, headers=headers).status_code != httpx.codes.NOT_FOUND
        except httpx.HTTPError:
            return True  # not known

    def fetch_usage(self) -> tuple[list[NodeUsage], list[dict[str, float]]]:
        """Fetch the usage of each node, and what each task or actor needs that waits to be placed."""
        response = self._http.get("/api/cluster_status")
        response.raise_for_status()
        report = response.json()["data"]["clusterStatus"]["loadMetricsReport"]
        usage = [
            {name: (used, total) for name, (used, total) in node.items()} for node in report["usageByNode"].values()
        ]
        return usage, [demand for demand, _ in report["resourceDemand"]]

    def count_gpus(self) -> int:
        """Count the GPUs of all live nodes."""
        return int(sum(node.get("GPU", 0) for node in self.fetch_nodes()))

    def fetch_nodes(self) -> list[dict[str, float]]:
        """Fetch the total resources of each live node; joining as a driver, to ask Ray, would take seconds."""
        response = self._http.get("/api/v0/nodes", params={"limit": MAX_NODES})
        response.raise_for_status()
        nodes = response.json()["data"]["result"]["result"]
        return [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]


def is_running(applications: Applications, name: str) -> bool:
    """Whether an application runs.

    Raises:
        ServiceError: it failed to start; the message is the replica's.
    """
    application = applications.get(name, {})
    status = application.get("status", "NOT_STARTED")
    if status in FAILED_STATUSES:
        raise ServiceError(f"{name} does not start: {describe_failure(application)}")
    return bool(status == "RUNNING")
