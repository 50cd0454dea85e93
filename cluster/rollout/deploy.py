"""Deploy: writes what is wanted, applies it to Ray Serve, and takes it back where it does not start.

Deploy walk: cluster.shoal -> [deploy.py] -> serve_api.py -> deployments.applications -> deployments.models.replica
A model or pipeline that cannot start leaves the previous one serving. Whatever ends a command in the middle, the store
and Serve agree: what is written and what Serve is told change together, while no signal interrupts; a command that is
killed in between is undone by the next, or by `up`.
"""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.local.signals import Interrupted, delay_interrupts
from cluster.rollout.serve_api import Applications, ClusterEnded, OnStatus, ServeApi, is_running
from cluster.settings import Settings
from deployments.edge.state import CONTROL, EDGE, GRPC
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import Dtype, ModelDeployment, ModelEndpoint, Scale
from deployments.state.key_store import KeyStore
from deployments.state.store import DeploymentStore
from training.errors import ServiceError, UserError

ROLLBACK_TIMEOUT_S = 30.0

if TYPE_CHECKING:
    from deployments.specs.pipeline import Pipeline
    from training.registry.entities import Version


def deploy(
    settings: Settings,
    cluster: Cluster,
    version: "Version",
    on_status: OnStatus,
    *,
    scale: Scale | None = None,
    dtype: Dtype = "fp32",
    compile: bool = False,  # noqa: A002 - torch's word
) -> ModelDeployment:
    """Serve a published version; returns when it answers.

    Args:
        settings: of the cluster.
        cluster: the running one.
        version: whose bundle was verified.
        on_status: told the status meanwhile.
        scale: None keeps the scale that the model has, or takes the default for a new one.
        dtype: bf16 for a variant whose matrices are multiplied in bf16.
        compile: whether the net is compiled.

    Raises:
        UserError: a pipeline has its name, or one that calls it would not work any more.
        ServiceError: its replicas do not start; the previous version goes on serving.
    """
    endpoint = ModelEndpoint(
        name=version.name,
        version=version.version,
        digest=version.digest,
        uri=version.uri,
        limits=settings.limits,
        dtype=dtype,
        compile=compile,
    )
    deployment = ModelDeployment(endpoint=endpoint, scale=scale or current_scale(settings, version.name) or Scale())
    _replace(settings, cluster, deployment, on_status)
    return deployment


def deploy_pipeline(
    settings: Settings, cluster: Cluster, pipeline: "Pipeline", on_status: OnStatus
) -> PipelineDeployment:
    """Serve a pipeline; returns when it answers.

    Raises:
        UserError: a model has its name, or its nodes are not deployed or do not fit one another.
        ServiceError: its replicas do not start; the previous version goes on serving.
    """
    from cluster.rollout.dependents import resolve_pipeline

    deployment = resolve_pipeline(settings, pipeline)
    _replace(settings, cluster, deployment, on_status)
    return deployment


def undeploy(settings: Settings, cluster: Cluster | None, name: str, on_status: OnStatus) -> None:
    """Stop serving a model or pipeline; returns when no request reaches it, while its replicas still drain.

    Args:
        settings: of the cluster.
        cluster: the running one; None where none runs, and the next one will start without the model.
        name: of the model or pipeline.
        on_status: told the status meanwhile.

    Raises:
        UserError: it is not deployed, or a pipeline calls it.
    """
    store = DeploymentStore(settings.platform)
    records, unreadable = store.load()
    names = [*(record.name for record in records), *unreadable]
    if name not in names:
        deployed = ", ".join(names) or "none"
        raise UserError(f"{name!r} is not deployed; deployed: {deployed}")
    _reject_if_called(records, name)
    store.end_rollout(undo=True)
    if cluster is None:
        store.delete_record(name)
        return
    with ServeApi(settings, cluster) as serve:
        try:
            with delay_interrupts():
                _change(store, serve, {name: None})
                store.end_rollout(undo=False)
            serve.wait(lambda applications: name not in applications or not serve.is_routed(name), on_status)
        except KeyboardInterrupt:
            raise Interrupted(f"after {name} was undeployed; its last requests may still be answered") from None


def reconcile(settings: Settings, cluster: Cluster, on_status: OnStatus) -> dict[str, str]:
    """Make everything run that is recorded, and wait until each runs or has failed.

    Returns:
        Why, of each model or pipeline that does not start; the others serve, and it is tried again by any deployment.

    Raises:
        ServiceError: the edge or the control application does not start.
    """
    admin_key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    KeyStore(settings.platform).set_key(admin_key, "admin")
    store = DeploymentStore(settings.platform)
    store.end_rollout(undo=True)
    records, failures = store.load()

    def has_settled(applications: Applications, name: str) -> bool:
        failures.pop(name, None)
        try:
            return is_running(applications, name)
        except ServiceError as error:
            failures[name] = f"{error}; `shoal undeploy {name}`, or deploy another version"
            return True

    with ServeApi(settings, cluster) as serve:
        serve.put_config(records)
        serve.wait(
            lambda applications: (
                all(is_running(applications, name) for name in (EDGE, CONTROL, GRPC))
                and all(has_settled(applications, record.name) for record in records)
            ),
            on_status,
        )
    return failures


def current_scale(settings: Settings, name: str) -> Scale | None:
    """The scale that a model is deployed with; None where it is not deployed."""
    record = DeploymentStore(settings.platform).get_record(name)
    return record.scale if isinstance(record, ModelDeployment) else None


def reject_if_deployed(settings: Settings, version: "Version") -> None:
    """Raise UserError if this version is what is deployed under its name."""
    record = DeploymentStore(settings.platform).get_record(version.name)
    if isinstance(record, ModelDeployment) and record.endpoint.version == version.version:
        raise UserError(f"{version} is deployed; `shoal undeploy {version.name}`, or deploy another version, first")


def change_scale(scale: Scale, changes: dict[str, Any]) -> Scale:
    """Apply named changes to a scale; a bound that only one side was given for moves the other along.

    Raises:
        ValidationError: a value is out of its bounds, or both bounds were given the wrong way round.
    """
    values = scale.model_dump() | changes
    if "max_replicas" not in changes:
        values["max_replicas"] = max(values["max_replicas"], values["min_replicas"])
    elif "min_replicas" not in changes:
        values["min_replicas"] = min(values["min_replicas"], values["max_replicas"])
    return Scale.model_validate(values)


def _replace(settings: Settings, cluster: Cluster, deployment: DeploymentRecord, on_status: OnStatus) -> None:
    """Serve a model or pipeline in place of what has its name, and tell the pipelines that call it."""
    store = DeploymentStore(settings.platform)
    store.end_rollout(undo=True)
    records = store.list_records()
    changed: dict[str, DeploymentRecord] = {
        record.name: record for record in _find_dependents(settings, records, deployment)
    }
    changed[deployment.name] = deployment
    with ServeApi(settings, cluster) as serve:
        try:
            with delay_interrupts():
                _change(store, serve, changed)
            serve.wait(lambda applications: all(is_running(applications, name) for name in changed), on_status)
        except BaseException as error:
            with delay_interrupts():
                store.end_rollout(undo=True)
                if isinstance(error, ClusterEnded):
                    raise
                serve.put_config(store.list_records())
            if isinstance(error, ServiceError):
                _wait_for_rollback(serve, {record.name for record in records} & changed.keys(), on_status)
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(
                    f"while {deployment.name} was deployed; {_describe_kept(records, deployment)}"
                ) from None
            raise
    try:
        with delay_interrupts():
            store.end_rollout(undo=False)
    except KeyboardInterrupt:
        raise Interrupted(f"after {deployment.name}:{deployment.endpoint.version} was deployed; it serves") from None


def _change(store: DeploymentStore, serve: ServeApi, changes: Mapping[str, DeploymentRecord | None]) -> None:
    """Write what is wanted, and tell Serve; where that is refused, what there was is wanted again."""
    store.begin_rollout(changes)
    try:
        serve.put_config(store.list_records())
    except BaseException:
        store.end_rollout(undo=True)
        raise


def _describe_kept(records: list[DeploymentRecord], deployment: DeploymentRecord) -> str:
    for record in records:
        if record.name == deployment.name:
            return f"{record.name}:{record.endpoint.version} goes on serving"
    return "it is not deployed"


def _wait_for_rollback(serve: ServeApi, names: set[str], on_status: OnStatus) -> None:
    """Wait until Serve has what ran before under its own name again; its replicas never stopped."""
    with contextlib.suppress(ServiceError, httpx.HTTPError):
        serve.wait(
            lambda applications: all(is_running(applications, name) for name in names), on_status, ROLLBACK_TIMEOUT_S
        )


def _find_dependents(
    settings: Settings, records: list[DeploymentRecord], changed: DeploymentRecord
) -> list[PipelineDeployment]:
    before = next((record for record in records if record.name == changed.name), None)
    if isinstance(before, PipelineDeployment) and isinstance(changed, ModelDeployment):
        raise UserError(f"{changed.name!r} is a pipeline's name; `shoal undeploy {changed.name}` first")
    if not any(isinstance(record, PipelineDeployment) for record in records):
        return []
    from cluster.rollout.dependents import find_dependents

    return find_dependents(settings, records, changed)


def _reject_if_called(records: list[DeploymentRecord], name: str) -> None:
    callers = [
        record.name
        for record in records
        if isinstance(record, PipelineDeployment) and name in record.endpoint.signatures
    ]
    if callers:
        raise UserError(f"{name!r} is a node of {', '.join(callers)}; `shoal undeploy {callers[0]}` first")
