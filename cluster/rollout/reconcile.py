"""Rollout: make Ray Serve run what the state says, and watch until it does.

Deploy walk: cluster.cli.app deploy -> [rollout.py] -> deployments.applications -> deployments.models.replica
Declarative, through Serve's REST API: unchanged applications keep their replicas, and one that cannot start leaves the
old one serving.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from cluster.local import secrets
from cluster.local.lifecycle import Cluster
from cluster.rollout import dependents
from cluster.settings import Settings
from deployments.applications import CONTROL, build_serve_config
from deployments.specs.model import Deployment, Dtype, Endpoint, Scale
from deployments.specs.pipeline import Pipeline
from deployments.specs.record import DeploymentRecord, PipelineDeployment
from deployments.state.store import DeploymentStore
from training.errors import ServiceError, UserError

POLL_S = 0.2
# Ray's dashboard gives no more at once.
MAX_NODES = 10_000
OnStatus = Callable[[str], None]


def deploy(
    settings: Settings,
    cluster: Cluster,
    reference: str,
    scale: Scale,
    on_status: OnStatus,
    *,
    dtype: Dtype = "fp32",
    compile: bool = False,  # noqa: A002 - the word that everybody has for it
) -> Deployment:
    """Serve a published version, as it was trained or in another form; returns when it answers.

    Raises:
        Mistake: no such version, or its bundle was damaged.
        Failure: its replicas do not start; what ran before runs on.
    """
    # Torch and MLflow, seconds of imports, which to start and stop a cluster needs not.
    from training.registry.model_registry import Registry

    registry = Registry(settings)
    version = registry.resolve(reference)
    # A replica checks again; here a damaged bundle is told at once and by name.
    registry.load_manifest(version)
    endpoint = Endpoint(
        name=version.name,
        version=version.version,
        digest=version.digest,
        uri=version.uri,
        limits=settings.limits,
        dtype=dtype,
        compile=compile,
    )
    deployment = Deployment(endpoint=endpoint, scale=scale)
    _replace(settings, cluster, deployment, on_status)
    return deployment


def deploy_pipeline(
    settings: Settings, cluster: Cluster, pipeline: Pipeline, on_status: OnStatus
) -> PipelineDeployment:
    """Serve a pipeline; returns when it answers.

    Raises:
        Mistake: a model has its name, or its steps are not deployed or do not fit one another.
        Failure: its replicas do not start; what ran before runs on.
    """
    deployment = dependents.resolve_pipeline(settings, pipeline)
    _replace(settings, cluster, deployment, on_status)
    return deployment


def _replace(settings: Settings, cluster: Cluster, deployment: DeploymentRecord, on_status: OnStatus) -> None:
    """Serve a model or pipeline in place of what had its name, and let the pipelines that call it know."""
    state = DeploymentStore(settings.platform)
    noted = state.list_records()
    changed: dict[str, DeploymentRecord] = {
        each.name: each for each in dependents.find_dependents(settings, noted, deployment)
    }
    changed[deployment.name] = deployment
    try:
        _put_config(settings, cluster, [*(each for each in noted if each.name not in changed), *changed.values()])
        _wait(settings, cluster, on_status, lambda found: all(_is_running(found, name) for name in changed))
    except BaseException:
        # Back to what is noted: the next start must not find what never worked.
        _put_config(settings, cluster, state.list_records())
        raise
    for each in changed.values():
        state.put_record(each)


def undeploy(settings: Settings, cluster: Cluster, name: str, on_status: OnStatus) -> None:
    """Stop serving a model or pipeline.

    Raises:
        Mistake: it is not deployed, or a pipeline calls it.
    """
    state = DeploymentStore(settings.platform)
    if state.get_record(name) is None:
        deployed = ", ".join(d.name for d in state.list_records()) or "none"
        raise UserError(f"{name!r} is not deployed; deployed: {deployed}")
    dependents.reject_if_called(state.list_records(), name)
    state.delete_record(name)
    _put_config(settings, cluster, state.list_records())
    _wait(settings, cluster, on_status, lambda found: name not in found)


def reconcile(settings: Settings, cluster: Cluster, on_status: OnStatus) -> None:
    """Make everything run that is noted, and wait until it does."""
    noted = DeploymentStore(settings.platform).list_records()
    _put_config(settings, cluster, noted)
    wanted = [CONTROL, *(d.name for d in noted)]
    _wait(settings, cluster, on_status, lambda found: all(_is_running(found, name) for name in wanted))


def fetch_statuses(settings: Settings, cluster: Cluster) -> dict[str, Any]:
    """Serve's account of every application, as its REST API gives it."""
    with _open_client(settings, cluster) as client:
        answer = client.get("/api/serve/applications/")
        answer.raise_for_status()
        applications: dict[str, Any] = answer.json()["applications"]
        return applications


def count_gpus(settings: Settings, cluster: Cluster) -> int:
    """How many GPUs the running cluster has now; the dashboard says so at once, a driver takes seconds to join."""
    with _open_client(settings, cluster) as client:
        answer = client.get("/api/v0/nodes", params={"limit": MAX_NODES})
    answer.raise_for_status()
    nodes = answer.json()["data"]["result"]["result"]
    return int(sum(node["resources_total"].get("GPU", 0) for node in nodes if node["state"] == "ALIVE"))


def _put_config(settings: Settings, cluster: Cluster, deployments: list[DeploymentRecord]) -> None:
    keys = {secrets.hash_key(secrets.read_secret(settings.home, secrets.ADMIN_KEY)): "admin"}
    config = build_serve_config(deployments, settings, keys, settings.host, cluster.http_port, cluster.grpc_port)
    with _open_client(settings, cluster) as client:
        answer = client.put("/api/serve/applications/", json=config)
    if answer.is_error:
        said = answer.text.strip().splitlines() or ["no reason given"]
        raise ServiceError(f"Ray Serve refused the configuration: {answer.status_code} {said[-1]}")


def _is_running(found: dict[str, Any], name: str) -> bool:
    application = found.get(name, {})
    status = application.get("status", "NOT_STARTED")
    if status == "DEPLOY_FAILED" or status == "UNHEALTHY":
        raise ServiceError(f"{name} does not start: {_failure_reason(application)}")
    return bool(status == "RUNNING")


def _failure_reason(application: dict[str, Any]) -> str:
    """What a replica's constructor said last, out of the traceback that Serve keeps of it."""
    messages: list[str] = [d.get("message", "") for d in application.get("deployments", {}).values()]
    messages.append(application.get("message", ""))
    lines = [line.strip() for message in messages for line in message.splitlines()]
    errors = [line for line in lines if re.match(r"^[\w.]+: ", line) and "replica.py" not in line]
    return (errors or [line for line in lines if line] or ["no reason given"])[-1]


def _wait(settings: Settings, cluster: Cluster, on_status: OnStatus, done: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.monotonic() + settings.deploy_timeout_s
    while time.monotonic() < deadline:
        found = fetch_statuses(settings, cluster)
        on_status(", ".join(f"{name} {found[name]['status']}" for name in sorted(found)))
        if done(found):
            return
        time.sleep(POLL_S)
    raise ServiceError(f"not done within {settings.deploy_timeout_s:g} s; `shoal status` says where it stands")


def _open_client(settings: Settings, cluster: Cluster) -> httpx.Client:
    token = secrets.read_secret(settings.home, secrets.RAY_TOKEN)
    return httpx.Client(
        base_url=cluster.dashboard, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
    )
