"""Summary: how each deployment is doing, out of what shall run, Serve's state, and the replicas' own reports.

Nothing here imports Ray: `shoal status` falls back to it where the control application does not answer.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from deployments.edge.state import Member
from deployments.rollout.canary import Canary
from deployments.scaling.traffic import Traffic, Window, measure_traffic
from deployments.specs.deployment import ASLEEP, DeploymentRecord, PipelineDeployment
from deployments.state.revisions import Revision
from deployments.state.store import DeploymentStore
from training.registry.process_identity import ProcessIdentity
from training.schema import StrictModel

FAILED_STATUSES = ("DEPLOY_FAILED", "UNHEALTHY")
NOT_STARTED, UNREADABLE = "NOT_STARTED", "UNREADABLE"

# The class of an exception, as a traceback ends with it.
_ERROR = re.compile(r"^(\w+\.)*\w*(Error|Exception|Interrupt|Exit|Failed|Exceeded|Died)\w*(: |$)")
_OWN_CLASS = re.compile(r"^(training|deployments)\.[\w.]+: ")

Applications = Mapping[str, Any]
"""Serve's state of each application by name, as its REST API has it (ray.serve.schema.ServeInstanceDetails)."""

ReplicaWindows = Sequence[tuple[Member, Window | None]]
"""The replicas that take requests, and what each did in the last seconds; None for one that has not reported yet."""


class VersionSummary(StrictModel):
    """One version that answers requests."""

    version: int
    variant: str
    weight: float = Field(description="Percent of the requests that it gets; 0 of one that gets copies alone.")
    replicas: int = Field(description="Replicas that take requests.")


class DeploymentSummary(StrictModel):
    """How one deployment is doing."""

    name: str
    kind: Literal["model", "pipeline"] | None = Field(description="null: another version of Shoal deployed it.")
    revision: int | None = Field(description="Number of the revision that shall run; see `shoal history`.")
    version: int | None = Field(description="The version that shall run.")
    variant: str
    versions: list[VersionSummary] = Field(description="The versions that answer now; several while one is rolled out.")
    status: str = Field(
        description="Ray Serve's (RUNNING, DEPLOYING, DEPLOY_FAILED, UNHEALTHY, DELETING), NOT_STARTED or ASLEEP."
    )
    reason: str = Field(description="Why it is not as it shall be; empty where it is.")
    replicas: int = Field(description="Replicas that take requests.")
    target_replicas: int | None = Field(description="Replicas that shall run now.")
    min_replicas: int | None
    max_replicas: int | None
    traffic: Traffic | None = Field(description="Of the last 10 seconds; null where it is not known.")


def summarize_deployments(
    store: DeploymentStore,
    applications: Applications,
    windows: ReplicaWindows | None,
    canaries: Iterable[Canary] = (),
) -> list[DeploymentSummary]:
    """Summarize every deployment.

    Args:
        store: what shall run.
        applications: Serve's state of it.
        windows: what the replicas report; None where they cannot be asked.
        canaries: the rollouts that go on.
    """
    beside = {canary.spec.name: canary for canary in canaries if canary.is_up}
    deployments, current = store.load(), store.get_current_revisions()
    summaries = [
        _summarize(
            record, current.get(record.name), applications.get(record.name, {}), windows, beside.get(record.name)
        )
        for record in deployments.records
    ]
    for name, reason in deployments.unreadable.items():
        number = current[name].number if name in current else None
        summaries.append(
            DeploymentSummary(
                name=name,
                kind=None,
                revision=number,
                version=None,
                variant="",
                versions=[],
                status=UNREADABLE,
                reason=reason,
                replicas=0,
                target_replicas=None,
                min_replicas=None,
                max_replicas=None,
                traffic=None,
            )
        )
    return summaries


def _summarize(
    record: DeploymentRecord,
    revision: Revision | None,
    application: Mapping[str, Any],
    windows: ReplicaWindows | None,
    canary: Canary | None,
) -> DeploymentSummary:
    version, variant = record.endpoint.version, record.endpoint.variant
    if windows is None:
        count, traffic = count_running_replicas(application), None
        versions = [VersionSummary(version=version, variant=variant, weight=100, replicas=count)] if count else []
    else:
        own = [(member, window) for member, window in windows if member.route.name == record.name]
        extra = [(member, window) for member, window in windows if canary and canary.spec.has_replica(member)]
        versions = summarize_versions([member for member, _ in own], canary, [member for member, _ in extra])
        count, traffic = len(own), measure_traffic(window for _, window in (*own, *extra) if window)
    target = get_target_replicas(application)
    status: str = application.get("status", NOT_STARTED)
    if status == "RUNNING" and record.scale.min_replicas == 0 and not count:
        status = ASLEEP
    return DeploymentSummary(
        name=record.name,
        kind="pipeline" if isinstance(record, PipelineDeployment) else "model",
        revision=revision.number if revision else None,
        version=version,
        variant=variant,
        versions=versions,
        status=status,
        reason="" if status == ASLEEP else _describe(application, revision, count, target),
        replicas=count,
        target_replicas=target,
        min_replicas=record.scale.min_replicas,
        max_replicas=record.scale.max_replicas,
        traffic=traffic,
    )


def summarize_versions(
    members: Iterable[Member], canary: Canary | None = None, canary_members: Iterable[Member] = ()
) -> list[VersionSummary]:
    """The versions that a deployment's replicas serve, newest first.

    A canary gets its share of the requests, and of the rest each replica as many as another.
    """
    beside = _count_versions(canary_members)
    weight = canary.percent if canary and beside else 0.0
    replicas: Counter[tuple[int, str]] = Counter()
    weights: dict[tuple[int, str], float] = {}
    # A version that is promoted has replicas on both sides.
    for counts, percent in ((_count_versions(members), 100 - weight), (beside, weight)):
        for key, count in counts.items():
            replicas[key] += count
            weights[key] = weights.get(key, 0.0) + percent * count / sum(counts.values())
    summaries = [
        VersionSummary(version=version, variant=variant, weight=round(weight, 2), replicas=replicas[version, variant])
        for (version, variant), weight in weights.items()
    ]
    return sorted(summaries, key=lambda each: (each.version, each.variant), reverse=True)


def _count_versions(members: Iterable[Member]) -> Counter[tuple[int, str]]:
    return Counter((member.version, member.variant) for member in members)


def _describe(application: Mapping[str, Any], revision: Revision | None, count: int, target: int | None) -> str:
    """Why a deployment does not run, or what goes on with it; empty for one that is as it shall be."""
    if application.get("status") in FAILED_STATUSES:
        return describe_failure(application)
    reasons = []
    if revision and revision.is_open:
        reasons.append(_describe_open(revision))
    if target is None or count < target:
        reasons.append(describe_wait(application))
    return "; ".join(filter(None, reasons))


def _describe_open(revision: Revision) -> str:
    by = f"revision {revision.number} of {revision.author}"
    try:
        was_killed = bool(revision.owner) and ProcessIdentity.parse(revision.owner).has_ended()
    except ValueError:
        was_killed = False
    return f"being deployed ({by}{'; its command was killed, the cluster finishes it' if was_killed else ''})"


def get_target_replicas(application: Mapping[str, Any]) -> int | None:
    """How many replicas Serve wants of an application now; None where it does not know it."""
    deployment = application.get("deployments", {}).get("replica")
    target = deployment and deployment.get("target_num_replicas")
    return None if target is None else int(target)


def count_running_replicas(application: Mapping[str, Any]) -> int:
    """Count an application's replicas that run."""
    replicas = application.get("deployments", {}).get("replica", {}).get("replicas", [])
    return sum(replica["state"] == "RUNNING" for replica in replicas)


def describe_failure(application: Mapping[str, Any]) -> str:
    """The error of a replica's constructor, out of the traceback that Serve keeps of it."""
    return find_error(_list_messages(application))


def find_error(lines: Sequence[str]) -> str:
    """The last error of a traceback's lines, which Serve may follow with details of the process; ours without class."""
    errors = [line for line in lines if _ERROR.match(line) and "replica.py" not in line]
    last = (errors or lines or ["no reason given"])[-1]
    return _OWN_CLASS.sub("", last)


def describe_wait(application: Mapping[str, Any]) -> str:
    """What Serve says of replicas that are not there yet, or which states they are in."""
    if lines := _list_messages(application):
        return lines[-1]
    replicas = application.get("deployments", {}).get("replica", {}).get("replicas", [])
    states = [replica["state"] for replica in replicas if replica["state"] != "RUNNING"]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))
    return f"replicas: {counts}" if counts else ""


def _list_messages(application: Mapping[str, Any]) -> list[str]:
    messages: list[str] = [d.get("message", "") for d in application.get("deployments", {}).values()]
    messages.append(application.get("message", ""))
    return [line.strip() for message in messages for line in message.splitlines() if line.strip()]
