"""Canary audit: the rows of the audit log that go with a rollout: its begin, who ended it or what did, and its end.

Rollout walk: canary_store.py -> [canary_audit.py] -> deployments.access.audit.log
"""

from typing import Literal

from deployments.access.audit.event import Actor, AuditEvent, AuditOutcome
from deployments.access.audit.log import AuditTransaction
from deployments.rollout.canary import Canary, CanarySpec, CanaryState

CONTROLLER = "rollout controller"
"""The actor of what the evidence decides."""

_OUTCOMES: dict[str, AuditOutcome] = {"promoted": "succeeded", "rolled_back": "failed", "aborted": "interrupted"}


def record_begun(transaction: AuditTransaction, canary_id: int, spec: CanarySpec, source: str) -> None:
    """Append the row of a rollout that begins."""
    before = {"version": spec.stable_version}
    after = {
        "digest": spec.deployment.endpoint.digest,
        **spec.model_dump(mode="json", exclude={"deployment", "author"}),
    }
    after |= {"version": spec.version, "scale": spec.deployment.scale.model_dump(mode="json")}
    transaction.append(
        AuditEvent(
            spec.author or CONTROLLER,
            source,
            "canary",
            spec.name,
            "started",
            _get_operation(canary_id),
            before,
            after,
            spec.reason,
        )
    )


def record_requested(
    transaction: AuditTransaction, canary: Canary, requested: Literal["promote", "abort"], actor: Actor
) -> None:
    """Append the row of a person's decision."""
    transaction.append(_build_decision(canary, requested, actor, "started"))


def record_phase(transaction: AuditTransaction, canary: Canary, state: CanaryState) -> None:
    """Append the rows of a phase that follows another one."""
    if state.phase == "promoting" and canary.requested != "promote":
        transaction.append(_build_decision(canary, "promote", Actor(CONTROLLER), "started", state.reason))
    elif state.phase == "promoted":
        transaction.end(_get_operation(canary.id, "promote"), "succeeded", state.reason)
        if canary.requested == "abort":
            transaction.end(_get_operation(canary.id, "abort"), "failed", "it had been promoted")
    elif state.phase in ("rolled_back", "aborted"):
        # One that was to be promoted, and was not.
        outcome: AuditOutcome = "failed" if state.phase == "rolled_back" else "interrupted"
        if canary.requested == "promote" or canary.state.phase == "promoting":
            transaction.end(_get_operation(canary.id, "promote"), outcome, state.reason)
        if state.phase == "rolled_back":
            transaction.append(_build_decision(canary, "rollback", Actor(CONTROLLER), "succeeded", state.reason))
        elif canary.requested == "abort":
            transaction.end(_get_operation(canary.id, "abort"), "succeeded", state.reason)


def record_ended(transaction: AuditTransaction, canary: Canary) -> None:
    """Append the last row of a rollout of which nothing is left."""
    outcome = _OUTCOMES.get(canary.state.phase, "interrupted")
    transaction.end(_get_operation(canary.id), outcome, canary.state.reason, Actor(CONTROLLER))


def _build_decision(
    canary: Canary,
    action: Literal["promote", "abort", "rollback"],
    actor: Actor,
    outcome: AuditOutcome,
    message: str = "",
) -> AuditEvent:
    old, new = {"version": canary.spec.stable_version}, {"version": canary.spec.version}
    before, after = (old, new) if action == "promote" else (new, old)
    operation = _get_operation(canary.id, action)
    return AuditEvent(actor.name, actor.source, action, canary.spec.name, outcome, operation, before, after, message)


def _get_operation(canary_id: int, action: str = "") -> str:
    return f"canary/{canary_id}/{action}".rstrip("/")
