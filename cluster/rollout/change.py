"""Change: writes what shall run, tells Ray Serve, waits, and records what came of it.

Deploy walk: deploy.py -> [change.py] -> deployments.state.store, serve_api.py
What is written and what Serve is told change together, while no signal interrupts. A change that cannot start leaves
what ran before, and so does one that is interrupted. One whose command is killed is finished: by the next command, by
`up`, or by the cluster itself (deployments.control.abandoned, which starts this module).
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from itertools import groupby

import httpx

from cluster.local.running_cluster import Cluster, exclusive_lock, require_cluster
from cluster.local.signals import Interrupted, delay_interrupts
from cluster.rollout.serve_api import Applications, ClusterEnded, ConfigRefused, OnStatus, ServeApi, is_running
from cluster.settings import Settings
from deployments.access.audit.event import CLUSTER, Actor
from deployments.edge.state import CONTROL, EDGE, GRPC
from deployments.specs.deployment import DeploymentRecord
from deployments.state.revisions import Action, Origin, Revision
from deployments.state.store import DeploymentStore
from training.errors import ServiceError, ShoalError

ROLLBACK_TIMEOUT_S = 30.0
# How often a change is looked at whose command was killed.
FINISH_INTERVAL_S = 1.0


def bring_about(
    settings: Settings,
    serve: ServeApi,
    changes: Mapping[str, DeploymentRecord],
    action: Action,
    origin: Origin,
    is_done: Callable[[Applications], bool],
    on_status: OnStatus,
    *,
    restores: int | None = None,
) -> None:
    """Serve deployments in place of what has their names; returns when they answer.

    Args:
        settings: of the cluster.
        serve: of the cluster.
        changes: what shall be deployed, by name; the last is what was asked for.
        action: what was asked for.
        origin: who asked, and why.
        is_done: whether all run; raises ServiceError where one cannot start.
        on_status: told the status meanwhile.
        restores: number of the revision that a rollback deploys again.

    Raises:
        ServiceError: one does not start; what ran before goes on serving.
        Interrupted: the message says what serves.
    """
    store = DeploymentStore.open(settings)
    before = {name: store.get_settled_record(name) for name in changes}
    asked = changes[list(changes)[-1]]
    change = 0
    try:
        with delay_interrupts():
            change = store.begin_change(changes, action, origin, restores=restores)
            serve.put_config(store.list_records())
            store.mark_declared(change)
        serve.wait(is_done, on_status)
    except BaseException as error:
        with delay_interrupts():
            has_failed = isinstance(error, ServiceError) and not isinstance(error, ClusterEnded)
            store.end_change(change, "failed" if has_failed else "interrupted", str(error), restore=True)
            if isinstance(error, ClusterEnded):
                raise
            serve.put_config(store.list_records())
        if isinstance(error, ServiceError):
            _wait_for_rollback(serve, {name for name, record in before.items() if record}, on_status)
        if isinstance(error, KeyboardInterrupt):
            previous = before[asked.name]
            kept = f"{_describe(previous)} goes on serving" if previous else "it is not deployed"
            raise Interrupted(f"while {asked.name} was deployed; {kept}") from None
        raise
    try:
        with delay_interrupts():
            store.end_change(change, "succeeded")
    except KeyboardInterrupt:
        raise Interrupted(f"after {_describe(asked)} was deployed; it serves") from None


def remove(settings: Settings, cluster: Cluster | None, name: str, origin: Origin, on_status: OnStatus) -> None:
    """Stop serving a name; returns when no request reaches it.

    Raises:
        ServiceError: Serve refuses it, or does not answer; it goes on serving.
        Interrupted: it is undeployed, but some requests may still be answered.
    """
    store = DeploymentStore.open(settings)
    if cluster is None:
        store.end_change(store.begin_change({name: None}, "undeploy", origin), "succeeded")
        return
    with ServeApi(settings, cluster) as serve:
        try:
            with delay_interrupts():
                change = store.begin_change({name: None}, "undeploy", origin)
                try:
                    serve.put_config(store.list_records())
                except BaseException as error:
                    store.end_change(change, "failed", str(error), restore=True)
                    raise
                store.end_change(change, "succeeded")
            serve.wait(lambda applications: name not in applications or not serve.is_routed(name), on_status)
        except KeyboardInterrupt:
            raise Interrupted(f"after {name} was undeployed; its last requests may still be answered") from None


def reconcile(settings: Settings, cluster: Cluster, on_status: OnStatus) -> dict[str, str]:
    """Make everything run that is recorded, and wait until each runs or has failed; other commands are locked out.

    A change whose command was killed is finished; where it does not start, what ran before it is started.

    Returns:
        Why, of each model or pipeline that does not start; the others serve, and it is tried again by any deployment.

    Raises:
        ServiceError: the edge or the control application does not start.
    """
    store = DeploymentStore.open(settings)
    with ServeApi(settings, cluster) as serve:
        failures = _start_all(store, serve, on_status)
        restored: dict[str, str] = {}
        for change, revisions in _list_abandoned(store).items():
            reasons = [failures[each.name] for each in revisions if each.name in failures]
            if not reasons:
                store.end_change(change, "succeeded", _FINISHED, actor=_CLUSTER)
                continue
            for name in store.end_change(change, "failed", reasons[0], restore=True, actor=_CLUSTER):
                restored[name] = f"{reasons[0]}; what ran before is restored"
        # Those that ran before nothing did are not deployed any more.
        return _start_all(store, serve, on_status) | restored if restored else failures


_FINISHED = "its command was killed; the cluster finished it"
_CLUSTER = Actor(CLUSTER)


def _start_all(store: DeploymentStore, serve: ServeApi, on_status: OnStatus) -> dict[str, str]:
    records, failures = store.load()

    def has_settled(applications: Applications, name: str) -> bool:
        failures.pop(name, None)
        try:
            return is_running(applications, name)
        except ServiceError as error:
            failures[name] = f"{error}; `shoal undeploy {name}`, or deploy another version"
            return True

    serve.put_config(records)
    serve.wait(
        lambda applications: (
            all(is_running(applications, name) for name in (EDGE, CONTROL, GRPC))
            and all(has_settled(applications, record.name) for record in records)
        ),
        on_status,
    )
    return failures


def finish_changes(settings: Settings, serve: ServeApi) -> bool:
    """Look once at the changes whose command was killed, and end those that have settled; others are locked out.

    Returns:
        Whether any goes on.
    """
    store = DeploymentStore.open(settings)
    abandoned = _list_abandoned(store)
    for change, revisions in abandoned.items():
        message = ""
        if all(each.declared_s for each in revisions):
            applications = serve.fetch_applications()
            try:
                if all(_is_settled(applications, each) for each in revisions):
                    store.end_change(change, "succeeded", _FINISHED, actor=_CLUSTER)
                    continue
            except ServiceError as error:
                message = str(error)
        else:
            try:
                serve.put_config(store.list_records())
                store.mark_declared(change)
            except ConfigRefused as error:
                message = str(error)
        declared_s = min(each.declared_s or time.time() for each in revisions)
        if not message and time.time() - declared_s > settings.deploy_timeout_s:
            message = f"not done within {settings.deploy_timeout_s:g} s"
        if message:
            store.end_change(change, "failed", message, restore=True, actor=_CLUSTER)
            serve.put_config(store.list_records())
    return bool(_list_abandoned(store))


def _list_abandoned(store: DeploymentStore) -> dict[int, list[Revision]]:
    """The open revisions by their change; since no other command runs, those of a process have no one any more."""
    revisions = [each for each in store.list_open_revisions() if each.owner]
    return {change: list(group) for change, group in groupby(revisions, lambda each: each.change)}


def _is_settled(applications: Applications, revision: Revision) -> bool:
    """Whether what a revision asked for is so; raises ServiceError where it does not start."""
    if revision.spec is None:
        return bool(applications.get(revision.name, {}).get("status", "DELETING") == "DELETING")
    return is_running(applications, revision.name)


def _describe(record: DeploymentRecord) -> str:
    return f"{record.name}:{record.endpoint.version}"


def _wait_for_rollback(serve: ServeApi, names: set[str], on_status: OnStatus) -> None:
    """Wait until Serve has what ran before under its own name again; its replicas never stopped."""
    with contextlib.suppress(ServiceError, httpx.HTTPError):
        serve.wait(
            lambda applications: all(is_running(applications, name) for name in names), on_status, ROLLBACK_TIMEOUT_S
        )


def main() -> None:
    """Finish all changes whose command was killed; what the cluster starts."""
    from cluster.settings import load_settings

    settings = load_settings()
    while True:
        cluster = require_cluster(settings)
        with exclusive_lock(settings), ServeApi(settings, cluster) as serve:
            if not finish_changes(settings, serve):
                return
        time.sleep(FINISH_INTERVAL_S)


if __name__ == "__main__":
    try:
        main()
    except (ShoalError, httpx.HTTPError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
