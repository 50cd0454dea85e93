"""Status for `shoal status`: how each deployment is doing, as the control application says over HTTP.

Joining the cluster as a Ray driver would take seconds. Where the control application does not answer, the deployments
come from the database and Serve's state from its REST API; then only the traffic is not known.
"""

from typing import Any, NamedTuple

import httpx

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.serve_api import ServeApi
from cluster.settings import Settings
from deployments.control.summary import DeploymentSummary, summarize_deployments
from deployments.state.store import DeploymentStore
from training.errors import ServiceError

# The control application answers within milliseconds, or waits for something that is down.
CONTROL_TIMEOUT_S = 5.0


class ClusterStatus(NamedTuple):
    """How the deployments are doing.

    Attributes:
        deployments: each one.
        warning: why something is not known of them; empty otherwise.
    """

    deployments: list[DeploymentSummary]
    warning: str


class StatusClient:
    """Asks one cluster for its status, again and again; use as a context manager."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        from deployments.client.local import build_verification

        self._settings, self._cluster = settings, cluster
        key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
        self._http = httpx.Client(
            base_url=cluster.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=CONTROL_TIMEOUT_S,
            verify=build_verification(cluster.url),
            trust_env=False,
        )

    def __enter__(self) -> "StatusClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def fetch(self) -> ClusterStatus:
        """Fetch the status.

        Raises:
            ServiceError: neither the control application nor Serve's REST API answers.
        """
        try:
            response = self._http.get("/api/v1/deployments")
            response.raise_for_status()
            deployments: list[Any] = response.json()["deployments"]
            return ClusterStatus([DeploymentSummary.model_validate(each) for each in deployments], "")
        except (httpx.HTTPError, ValueError, KeyError) as error:
            reason = _describe(error)
        with ServeApi(self._settings, self._cluster) as serve:
            try:
                applications = serve.fetch_applications()
            except (httpx.HTTPError, ValueError, KeyError) as error:
                raise ServiceError(
                    f"neither the control application ({reason}) nor Ray Serve's API ({_describe(error)}) answers; "
                    "see `shoal logs control`"
                ) from error
        summaries = summarize_deployments(DeploymentStore(self._settings.platform), applications, None)
        return ClusterStatus(summaries, f"the control application does not answer ({reason}): traffic is not known")


def _describe(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return type(error).__name__
