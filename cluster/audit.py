"""Audit: the rows of what the command line does to a whole cluster: its start, its settings, its stop."""

import contextlib
from collections.abc import Callable, Iterator

from cluster.settings import Settings, list_fields
from deployments.access.audit.event import Actor, AuditEvent
from deployments.access.audit.log import AuditLog
from training.errors import UserError
from training.settings import mask_passwords


@contextlib.contextmanager
def record_start(settings: Settings) -> Iterator[None]:
    """Record that a cluster is started, and with which settings where they are others than the last time."""
    audit = AuditLog.open(settings)
    with audit.record("up", str(settings.home)):
        _record_settings(audit, settings)
        yield


@contextlib.contextmanager
def record_stop(settings: Settings, on_warning: Callable[[str], None]) -> Iterator[None]:
    """Record that a cluster is stopped.

    That is possible without the log, which everything else needs: what runs away must be stopped where a disk is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(AuditLog.open(settings).record("down", str(settings.home)))
        except UserError as error:
            on_warning(f"the cluster is stopped without a row in the audit log: {error}")
        yield


def _record_settings(audit: AuditLog, settings: Settings) -> None:
    """Record the settings that are not the defaults, without passwords."""
    values = settings.flatten()
    changed = {key: mask_passwords(values[key]) for key, field in list_fields().items() if values[key] != field.default}
    last = audit.get_last("setting")
    before = last["after"] if last else None
    actor = Actor.current()
    event = AuditEvent(actor.name, actor.source, "setting", "settings", "succeeded", before=before, after=changed)
    if event.to_json()["after"] != before:
        audit.append(event)
