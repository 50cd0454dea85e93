"""Canary: begins a rollout of a version beside the one that serves, and brings about what its controller has decided.

Rollout walk: cluster.shoal -> [canary.py] -> deployments.state.canary_store, serve_api.py
The controller decides inside the cluster, and starts this module as a process to change what Serve runs, with the lock
and the checks of a command: a version that is promoted is deployed as by `shoal deploy`, with a revision.
"""

import contextlib
import sys
import time

import httpx

from cluster.local.running_cluster import Cluster, exclusive_lock, require_cluster
from cluster.local.signals import Interrupted, delay_interrupts
from cluster.rollout.capacity import CapacityWatch, reject_oversized
from cluster.rollout.change import finish_changes
from cluster.rollout.deploy import find_dependents_of, reject_pipeline, replace
from cluster.rollout.serve_api import ClusterEnded, OnStatus, ServeApi, ServeUnreachable
from cluster.rollout.trust import reject_untrusted
from cluster.settings import Settings
from deployments.access.audit.event import Actor
from deployments.rollout.canary import Canary, CanarySpec
from deployments.specs.model_deployment import ModelDeployment
from deployments.state.canary_audit import CONTROLLER
from deployments.state.canary_store import CanaryStore
from deployments.state.key_store import KeyStore
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
from training.errors import BundleError, ServiceError, ShoalError, StoreUnavailable, UserError
from training.registry.process_identity import ProcessIdentity

POLL_INTERVAL_S = 0.3
# Edges have a new weight within a second; a replica that leaves later has fewer requests to finish.
WEIGHT_S = 2.0
# With so many callers, 5% of them is one.
MIN_CALLERS = 20
# They tell nothing of the version. A bundle is one of a pipeline's, whose storage may not answer.
_UNAVAILABLE = (ClusterEnded, ServeUnreachable, StoreUnavailable, BundleError)


def begin(settings: Settings, cluster: Cluster, spec: CanarySpec, on_status: OnStatus) -> Canary:
    """Start a version beside the one that serves; returns when it takes its share of the requests.

    Raises:
        UserError: one of the model is being rolled out, a pipeline would not work with it, or no node can hold it.
        ServiceError: it does not start; what serves goes on.
    """
    store, deployments = CanaryStore.open(settings), DeploymentStore(settings.platform)
    with ServeApi(settings, cluster) as serve:
        finish_changes(settings, serve)
        reject_untrusted(settings, spec.deployment)
        find_dependents_of(settings, deployments.list_records(), spec.deployment)
        if not cluster.autoscales:
            reject_oversized(spec.name, spec.deployment.scale, serve.fetch_nodes())
        capacity = CapacityWatch(serve, {spec.name: spec.deployment.scale}, on_status)
        canary = store.begin(spec, Actor.current().source)
        try:
            with delay_interrupts():
                serve.put_config(deployments.list_records())
            deadline = time.monotonic() + settings.deploy_timeout_s
            while (canary := _get(store, canary)).state.phase == "starting":
                if time.monotonic() > deadline:
                    raise ServiceError(f"version {spec.version} is not up within {settings.deploy_timeout_s:g} s")
                # The message is a help only.
                with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                    capacity.observe(serve.fetch_applications())
                capacity.report(f"version {spec.version} starts beside version {spec.stable_version}")
                time.sleep(POLL_INTERVAL_S)
        except BaseException as error:
            store.request(canary.id, "abort", Actor.current())
            if isinstance(error, KeyboardInterrupt):
                kept = f"{spec.name}:{spec.stable_version} goes on serving"
                raise Interrupted(f"while {spec.name}:{spec.version} was started beside it; {kept}") from None
            raise
    if canary.state.phase == "rolled_back" and not canary.state.history:
        raise ServiceError(f"{spec.name}: {canary.state.reason}; version {spec.stable_version} goes on serving")
    return canary


def find_stable(settings: Settings, deployment: ModelDeployment) -> ModelDeployment:
    """Find what a canary is compared with.

    Raises:
        UserError: the model is not deployed, or what is deployed is the same.
    """
    record = DeploymentStore(settings.platform).get_settled_record(deployment.name)
    if not isinstance(record, ModelDeployment):
        raise UserError(
            f"{deployment.name!r} is not deployed; a first version needs no canary: shoal deploy without it"
        )
    if record.endpoint.version == deployment.endpoint.version:
        raise UserError(
            f"{deployment.name}:{record.endpoint.version} is what serves; a canary is another version of it"
        )
    return record


def choose_split(settings: Settings) -> str:
    """Split by the caller where there are so many that a small share of them is one; else by the request."""
    callers = KeyStore.open(settings).list_keys()
    return "caller" if len(callers) >= MIN_CALLERS else "request"


def find_canary(settings: Settings, name: str) -> Canary:
    """Find a model's last rollout.

    Raises:
        UserError: there was none.
    """
    reject_pipeline(settings, name)
    canary = CanaryStore(settings.platform).get_last(name)
    if canary is None:
        raise UserError(f"{name!r} has had no rollout; `shoal deploy {name}:VERSION --canary 5%` begins one")
    return canary


def request(settings: Settings, cluster: Cluster | None, name: str, what: str, on_status: OnStatus) -> Canary:
    """Ask for a rollout's promotion or abortion; returns when it is done.

    Raises:
        UserError: no rollout of the model goes on.
        ServiceError: it was not done in time, or the version cannot be promoted.
    """
    store = CanaryStore.open(settings)
    canary = find_canary(settings, name)
    if canary.ended_s is not None:
        raise UserError(f"no rollout of {name} goes on; the last one is {canary.state.phase.replace('_', ' ')}")
    if cluster is None:
        if what == "promote":
            raise UserError(f"no cluster runs; start it with `shoal up`, or deploy {name}:{canary.spec.version}")
        # Without the lock `up` might start what is being ended.
        with exclusive_lock(settings, on_status):
            _abort_without_cluster(settings, store, _get(store, canary))
    elif canary.state.phase in ("starting", "running") or what == "abort":
        store.request(canary.id, "promote" if what == "promote" else "abort", Actor.current())
    deadline = time.monotonic() + settings.deploy_timeout_s
    # Without a cluster it has ended.
    while (canary := _get(store, canary)).ended_s is None:
        if time.monotonic() > deadline:
            raise ServiceError(f"not done within {settings.deploy_timeout_s:g} s; `shoal rollout status {name}`")
        on_status(canary.state.phase.replace("_", " "))
        time.sleep(POLL_INTERVAL_S)
    expected = "promoted" if what == "promote" else "aborted"
    if canary.state.phase != expected:
        raise ServiceError(f"{name}:{canary.spec.version} is {canary.state.phase}: {canary.state.reason}")
    return canary


def _abort_without_cluster(settings: Settings, store: CanaryStore, canary: Canary) -> None:
    """End a rollout, so that the next cluster starts with the version of before; not one that has been promoted."""
    if canary.state.phase in ("starting", "running", "promoting"):
        store.request(canary.id, "abort", Actor.current())
        deployments = DeploymentStore.open(settings)
        # It has written the new version already.
        _take_back_promotion(deployments, canary.spec.name)
        update = {"phase": "aborted", "reason": "by request"}
        if deployments.get_record(canary.spec.name) == canary.spec.deployment:
            update = {"phase": "promoted"}
        store.write_state(canary.id, canary.state.model_copy(update=update))
    store.end(canary.id)


def finish(settings: Settings, cluster: Cluster) -> None:
    """Bring about what has been decided about each rollout; other commands are locked out."""
    store, deployments = CanaryStore.open(settings), DeploymentStore(settings.platform)
    # Those that have ended do not wait for one that cannot be promoted now.
    for canary in sorted(store.list_active(), key=lambda each: each.state.phase == "promoting"):
        if canary.state.phase == "promoting":
            canary = _promote(settings, cluster, store, canary)
        if canary.state.phase in ("promoted", "rolled_back", "aborted"):
            time.sleep(WEIGHT_S)
            with ServeApi(settings, cluster) as serve:
                # Without the canary, which is deleted: its replicas leave the edges, and finish what they have.
                serve.put_config(deployments.list_records())
                # The next rollout's application has the same name, and must not find this one's replicas.
                application = canary.spec.application
                serve.wait(lambda applications, name=application: name not in applications, _ignore)  # type: ignore[misc]
            store.end(canary.id)


def _promote(settings: Settings, cluster: Cluster, store: CanaryStore, canary: Canary) -> Canary:
    """Deploy the version, unless that is done or was called off; its canary takes its share meanwhile."""
    name, deployments = canary.spec.name, DeploymentStore.open(settings)
    with ServeApi(settings, cluster) as serve:
        # Where it does not answer, nothing is begun that would have to be taken back.
        serve.fetch_applications()
        finish_changes(settings, serve)
    update = {"phase": "promoted"}
    if deployments.get_settled_record(name) != canary.spec.deployment:
        if canary.requested == "abort":
            _take_back_promotion(deployments, name)
            update = {"phase": "aborted", "reason": "by request"}
        elif reason := _deploy(settings, cluster, canary):
            update = {"phase": "rolled_back", "verdict": "worse", "reason": f"it cannot be deployed: {reason}"}
    store.write_state(canary.id, canary.state.model_copy(update=update))
    return _get(store, canary)


def _deploy(settings: Settings, cluster: Cluster, canary: Canary) -> str:
    """Deploy a canary's version in its model's place; returns why that cannot be, empty where it is done.

    What tells nothing of the version is raised: it goes on being promoted, and the controller tries again.
    """
    spec, owner = canary.spec, str(ProcessIdentity.current())
    reason = spec.reason or f"canary of version {spec.version}: {canary.state.reason}"
    try:
        replace(settings, cluster, spec.deployment, "deploy", Origin(spec.author or CONTROLLER, reason, owner), _ignore)
    except _UNAVAILABLE:
        raise
    except (UserError, ServiceError) as error:
        return str(error)
    return ""


def _take_back_promotion(deployments: DeploymentStore, name: str) -> None:
    """End the change of a promotion that goes on; no other of the model can."""
    for revision in deployments.list_open_revisions():
        if revision.name == name:
            deployments.end_change(revision.change, "interrupted", "the rollout was aborted", restore=True)


def _get(store: CanaryStore, canary: Canary) -> Canary:
    found = store.get(canary.id)
    assert found is not None, "rollouts are not deleted"
    return found


def _ignore(status: str) -> None:
    """Where nobody watches."""


def main() -> None:
    """Bring about what has been decided; what the controller starts."""
    from cluster.settings import load_settings

    settings = load_settings()
    with exclusive_lock(settings):
        finish(settings, require_cluster(settings))


if __name__ == "__main__":
    try:
        main()
    except (ShoalError, httpx.HTTPError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
