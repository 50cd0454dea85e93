"""Deploy: what a command asks for, checked, becomes a change of the desired state; so do undeploy and rollback.

Deploy walk: cluster.shoal -> [deploy.py] -> change.py -> serve_api.py -> deployments.applications
    -> deployments.models.replica
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.local.running_cluster import Cluster
from cluster.rollout.capacity import CapacityWatch, reject_oversized
from cluster.rollout.change import bring_about, finish_changes, remove
from cluster.rollout.serve_api import Applications, OnStatus, ServeApi, is_running
from cluster.rollout.trust import reject_untrusted
from cluster.settings import Settings
from deployments.access.audit.event import Actor
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import Dtype, ModelDeployment, ModelEndpoint, Scale
from deployments.state.canary_store import CanaryStore
from deployments.state.revisions import Action, Origin, Revision
from deployments.state.store import DeploymentStore
from training.errors import StoreUnavailable, UserError
from training.registry.process_identity import ProcessIdentity

if TYPE_CHECKING:
    from deployments.specs.pipeline import Pipeline
    from training.registry.entities import Version


def make_origin(reason: str = "") -> Origin:
    """The origin of a change that this process makes: its user and machine."""
    actor = Actor.current()
    return Origin(actor.name, reason, str(ProcessIdentity.current()), actor.source)


def deploy(
    settings: Settings,
    cluster: Cluster,
    version: "Version",
    on_status: OnStatus,
    *,
    scale: Mapping[str, Any] | Scale | None = None,
    dtype: Dtype = "fp32",
    compile: bool = False,  # noqa: A002 - torch's word
    trust: str = "",
    origin: Origin | None = None,
) -> ModelDeployment:
    """Serve a published version; returns when it answers.

    Args:
        settings: of the cluster.
        cluster: the running one.
        version: whose bundle was verified.
        on_status: told the status meanwhile.
        scale: None keeps the scale that the model has, or takes the default for a new one: a GPU for each replica
            where there are any; a mapping changes some of its values.
        dtype: bf16 for a variant whose matrices are multiplied in bf16.
        compile: whether the net is compiled.
        trust: whose signature the bundle needs, beside what the setting of that name asks for.
        origin: who deploys it, and why; None for this process.

    Raises:
        UserError: a pipeline has its name, one that calls it would not work any more, no node can hold it, a canary of
            it is being rolled out, or its bundle lacks a signature that it needs.
        ServiceError: its replicas do not start; the previous version goes on serving.
    """
    CanaryStore(settings.platform).reject_if_active(version.name)
    deployment = build_deployment(settings, cluster, version, scale=scale, dtype=dtype, compile=compile, trust=trust)
    replace(settings, cluster, deployment, "deploy", origin or make_origin(), on_status)
    return deployment


def build_deployment(
    settings: Settings,
    cluster: Cluster,
    version: "Version",
    *,
    scale: Mapping[str, Any] | Scale | None = None,
    dtype: Dtype = "fp32",
    compile: bool = False,  # noqa: A002 - torch's word
    trust: str = "",
) -> ModelDeployment:
    """Build the deployment of a published version, of which it has checked what `trust` asks for; see deploy."""
    endpoint = ModelEndpoint(
        name=version.name,
        version=version.version,
        digest=version.digest,
        uri=version.uri,
        limits=settings.limits,
        dtype=dtype,
        compile=compile,
    )
    reject_untrusted(settings, ModelDeployment(endpoint=endpoint), trust)
    with ServeApi(settings, cluster) as serve:
        finish_changes(settings, serve)
        if not isinstance(scale, Scale):
            scale = change_scale(_current_scale(settings, serve, version.name), scale or {})
    return ModelDeployment(endpoint=endpoint, scale=scale)


def deploy_pipeline(
    settings: Settings,
    cluster: Cluster,
    pipeline: "Pipeline",
    on_status: OnStatus,
    *,
    origin: Origin | None = None,
) -> PipelineDeployment:
    """Serve a pipeline; returns when it answers.

    Raises:
        UserError: a model has its name, or its nodes are not deployed or do not fit one another.
        ServiceError: its replicas do not start; the previous version goes on serving.
    """
    from cluster.rollout.dependents import resolve_pipeline

    with ServeApi(settings, cluster) as serve:
        finish_changes(settings, serve)
    deployment = resolve_pipeline(settings, pipeline)
    replace(settings, cluster, deployment, "apply", origin or make_origin(), on_status)
    return deployment


def rollback(
    settings: Settings,
    cluster: Cluster,
    name: str,
    on_status: OnStatus,
    *,
    revision: int | None = None,
    origin: Origin | None = None,
) -> tuple[DeploymentRecord, Revision]:
    """Deploy what an earlier revision asked for, as a new revision; returns when it answers.

    Args:
        settings: of the cluster.
        cluster: the running one.
        name: of the model or pipeline, deployed or not any more.
        on_status: told the status meanwhile.
        revision: whose deployment it shall be; None for the last that succeeded and differs from what is deployed.
        origin: who rolls back, and why; None for this process.

    Returns:
        What is deployed now, and the revision that it was taken from.

    Raises:
        UserError: there is no such revision, its version was deleted, a pipeline would not work any more, or no node
            can hold it.
        ServiceError: its replicas do not start; what ran before goes on serving.
    """
    store = DeploymentStore(settings.platform)
    CanaryStore(settings.platform).reject_if_active(name)
    with ServeApi(settings, cluster) as serve:
        finish_changes(settings, serve)
    target = find_rollback_target(store, name, revision)
    record = target.parse_spec()
    if isinstance(record, PipelineDeployment):
        from cluster.rollout.dependents import resolve_pipeline

        # Its models may have changed since.
        record = resolve_pipeline(settings, record.endpoint.pipeline)
    elif record is not None:
        _require_version(settings, record, target)
    assert record is not None, "a target has a deployment"
    replace(settings, cluster, record, "rollback", origin or make_origin(), on_status, restores=target.number)
    return record, target


def find_rollback_target(store: DeploymentStore, name: str, number: int | None) -> Revision:
    """Find the revision that a rollback deploys again.

    Raises:
        UserError: there is none, or it cannot be deployed.
    """
    revisions = store.list_revisions(name)
    if not revisions:
        raise UserError(f"{name!r} was never deployed; `shoal status` lists what is")
    if number is not None:
        target = next((each for each in revisions if each.number == number), None)
        if target is None:
            raise UserError(f"{name} has no revision {number}; `shoal history {name}` lists 1 to {revisions[0].number}")
        if target.spec is None:
            raise UserError(f"revision {number} of {name} undeployed it; `shoal undeploy {name}` does that again")
        return target
    current = store.get_settled_record(name)
    for each in revisions:
        # One that this version of Shoal cannot read cannot be deployed either.
        if each.outcome == "succeeded" and each.spec is not None and _differs(each, current):
            return each
    raise UserError(
        f"{name} has no earlier revision that succeeded and differs from what is deployed; `shoal history {name}` "
        "lists them all"
    )


def _differs(revision: Revision, current: DeploymentRecord | None) -> bool:
    try:
        record = revision.parse_spec()
    except UserError:
        return False
    if isinstance(record, PipelineDeployment) and isinstance(current, PipelineDeployment):
        # Its version counts up with each change, and its signatures are those of the models.
        return record.endpoint.pipeline != current.endpoint.pipeline
    return record != current


def _require_version(settings: Settings, deployment: ModelDeployment, target: Revision) -> None:
    """Check that the bundle of a revision's deployment is there, and its own.

    Raises:
        UserError: its version was deleted.
        BundleError: it was damaged.
    """
    from training.registry.model_registry import Registry

    registry = Registry(settings)
    name, number = deployment.name, deployment.endpoint.version
    try:
        version = registry.get_version(name, number)
    except StoreUnavailable:
        raise
    except UserError as error:
        raise UserError(
            f"revision {target.number} of {name} deployed version {number}, which was deleted ({error}); name another "
            f"revision: `shoal history {name}` lists them, `shoal rollback {name} REVISION` deploys one"
        ) from error
    registry.load_manifest(version)


def undeploy(
    settings: Settings, cluster: Cluster | None, name: str, on_status: OnStatus, *, origin: Origin | None = None
) -> None:
    """Stop serving a model or pipeline; returns when no request reaches it, while its replicas still drain.

    Args:
        settings: of the cluster.
        cluster: the running one; None where none runs, and the next one will start without the model.
        name: of the model or pipeline.
        on_status: told the status meanwhile.
        origin: who undeploys it, and why; None for this process.

    Raises:
        UserError: it is not deployed, or a pipeline calls it.
    """
    records, unreadable = DeploymentStore(settings.platform).load()
    names = [*(record.name for record in records), *unreadable]
    if name not in names:
        deployed = ", ".join(names) or "none"
        raise UserError(f"{name!r} is not deployed; deployed: {deployed}")
    _reject_if_called(records, name)
    CanaryStore(settings.platform).reject_if_active(name)
    remove(settings, cluster, name, origin or make_origin(), on_status)


def _current_scale(settings: Settings, serve: ServeApi, name: str) -> Scale:
    """The scale that a model is deployed with, or the default; a GPU for each replica where there are any."""
    # A scale that a killed command wanted, and that never ran, is not what the model has.
    record = DeploymentStore(settings.platform).get_settled_record(name)
    if isinstance(record, ModelDeployment):
        return record.scale
    return Scale(gpus=1 if serve.count_gpus() else 0)


def reject_pipeline(settings: Settings, reference: str) -> None:
    """Raise UserError where a deployed pipeline has this name: a model has versions, and what is made of them."""
    name = re.split("[:@]", reference)[0]
    if isinstance(DeploymentStore(settings.platform).get_record(name), PipelineDeployment):
        raise UserError(
            f"{name!r} is a pipeline, which `shoal apply FILE` deploys; canaries, profiles and plans are of its models"
        )


def reject_if_deployed(settings: Settings, version: "Version") -> None:
    """Raise UserError if this version is deployed under its name, or may be by what goes on; others are locked out."""
    store = DeploymentStore(settings.platform)
    for canary in CanaryStore(settings.platform).list_active():
        if canary.spec.name == version.name and version.version in (canary.spec.version, canary.spec.stable_version):
            raise UserError(
                f"{version} is in a rollout; `shoal rollout status {version.name}`, and delete it afterwards"
            )
    # What ran before a change that goes on runs again where that fails.
    for record in (store.get_record(version.name), store.get_settled_record(version.name)):
        if isinstance(record, ModelDeployment) and record.endpoint.version == version.version:
            raise UserError(f"{version} is deployed; `shoal undeploy {version.name}`, or deploy another version, first")


def change_scale(scale: Scale, changes: Mapping[str, Any]) -> Scale:
    """Apply named changes to a scale; a bound that only one side was given for moves the other along.

    Raises:
        ValidationError: a value is out of its bounds, or both bounds were given the wrong way round.
    """
    values = scale.model_dump() | dict(changes)
    if "max_replicas" not in changes:
        values["max_replicas"] = max(values["max_replicas"], values["min_replicas"])
    elif "min_replicas" not in changes:
        values["min_replicas"] = min(values["min_replicas"], values["max_replicas"])
    return Scale.model_validate(values)


def replace(
    settings: Settings,
    cluster: Cluster,
    deployment: DeploymentRecord,
    action: Action,
    origin: Origin,
    on_status: OnStatus,
    *,
    restores: int | None = None,
) -> None:
    """Serve a model or pipeline in place of what has its name, and tell the pipelines that call it."""
    reject_untrusted(settings, deployment)
    records = DeploymentStore(settings.platform).list_records()
    changes: dict[str, DeploymentRecord] = {
        record.name: record for record in find_dependents_of(settings, records, deployment)
    }
    changes[deployment.name] = deployment
    with ServeApi(settings, cluster) as serve:
        if not cluster.autoscales:
            reject_oversized(deployment.name, deployment.scale, serve.fetch_nodes())
        capacity = CapacityWatch(serve, {name: record.scale for name, record in changes.items()}, on_status)

        def is_done(applications: Applications) -> bool:
            capacity.observe(applications)
            return all(is_running(applications, name) for name in changes)

        bring_about(settings, serve, changes, action, origin, is_done, capacity.report, restores=restores)


def find_dependents_of(
    settings: Settings, records: list[DeploymentRecord], changed: DeploymentRecord
) -> list[PipelineDeployment]:
    """Find the pipelines that call what is about to change, with its new signature in them.

    Raises:
        UserError: a pipeline has its name, or one that calls it would not work any more.
    """
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
