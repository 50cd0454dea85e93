"""Revision audit: the rows of the audit log that go with each revision, in its own transaction.

Deploy walk: store.py -> [revision_audit.py] -> deployments.access.audit.log
"""

from collections.abc import Iterable

from deployments.access.audit.event import Actor, AuditEvent, describe_spec
from deployments.access.audit.log import AuditTransaction
from deployments.state.revisions import Origin, Outcome, Revision, select_change, select_open


def record_superseded(transaction: AuditTransaction, names: Iterable[str]) -> None:
    """End the rows of what goes on under these names; before other revisions begin."""
    for revision in select_open(transaction.connection):
        if revision.name in names:
            _end(transaction, revision, "superseded", "another change of it began before this one had ended", None)


def record_begun(transaction: AuditTransaction, change: int, origin: Origin) -> None:
    """Append a row for each revision of a change that has begun."""
    for revision in select_change(transaction.connection, change):
        transaction.append(
            AuditEvent(
                origin.author,
                origin.source,
                revision.action,
                revision.name,
                "started",
                _get_operation(revision),
                describe_spec(revision.previous_spec),
                describe_spec(revision.spec),
                origin.reason,
            )
        )


def record_ended(
    transaction: AuditTransaction, change: int, outcome: Outcome, message: str, actor: Actor | None
) -> None:
    """Append a row for each revision of a change that ends; before they are ended."""
    for revision in select_change(transaction.connection, change):
        if revision.is_open:
            _end(transaction, revision, outcome, message, actor)


def _end(
    transaction: AuditTransaction, revision: Revision, outcome: Outcome, message: str, actor: Actor | None
) -> None:
    assert outcome != "in_progress", "a change ends with an outcome"
    operation = _get_operation(revision)
    if transaction.end(operation, outcome, message, actor):
        return
    # An earlier Shoal began it, which kept no log.
    before, after = describe_spec(revision.previous_spec), describe_spec(revision.spec)
    author = actor or Actor(revision.author)
    transaction.append(
        AuditEvent(
            author.name, author.source, revision.action, revision.name, outcome, operation, before, after, message
        )
    )


def _get_operation(revision: Revision) -> str:
    return f"{revision.name}/{revision.number}"
