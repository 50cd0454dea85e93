"""The path /api/v1/audit: the last rows of the audit log.

Request walk: app.py -> [audit.py] -> deployments.access.audit.reader
"""

from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

from fastapi import FastAPI, Query

from deployments.access.audit.reader import AuditFilter, AuditReader
from deployments.access.scopes import Action
from deployments.control.dependencies import CallerOf
from deployments.control.openapi import KEYS_TAG
from deployments.settings import ServingSettings
from training.errors import UserError

MAX_ROWS = 1000
Since = Annotated[str, Query(description="A time of ISO 8601; UTC where it names no zone.")]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]


def add_audit_route(api: FastAPI, settings: ServingSettings) -> None:
    """Add the path."""

    @cache
    def open_reader() -> AuditReader:
        return AuditReader(settings.platform)

    @api.get("/api/v1/audit", tags=[KEYS_TAG], summary="List rows of the audit log")
    def list_rows(
        caller: CallerOf,
        since: Since = "",
        actor: str = "",
        action: str = "",
        target: str = "",
        outcome: str = "",
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """Every change and every refusal: who, from where, what, before and after, outcome. Asks for `audit`."""
        caller.check(Action.AUDIT)
        wanted = AuditFilter(_parse_time(since) if since else None, actor, action, target, outcome)
        return {"rows": [row.to_json() for row in open_reader().list_rows(wanted, limit)]}


def _parse_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"since={text!r} is no time of ISO 8601; write one as 2026-11-28T12:00:00") from None
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
