"""Change recorder: who is written down for the changes of one request or command, and the log that they go into.

Request walk: deployments.control.dependencies -> [recorder.py] -> log.py
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from deployments.access.audit.event import Actor, AuditAction
from deployments.access.audit.log import AuditLog, Change


@dataclass(frozen=True)
class ChangeRecorder:
    """Records changes.

    Attributes:
        open_audit: opens the log, at the first change.
        actor: who makes them.
        request_id: of the request that asks for them; empty for none.
    """

    open_audit: Callable[[], AuditLog]
    actor: Actor
    request_id: str = ""

    def record(
        self, action: AuditAction, target: str, *, before: Any = None, after: Any = None
    ) -> AbstractContextManager[Change]:
        """Record a change that the block makes; see AuditLog.record."""
        return self.open_audit().record(
            action, target, self.actor, before=before, after=after, request_id=self.request_id
        )
