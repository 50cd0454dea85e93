"""The path /api/v1/usage: what tenants have used, for callers whose key allows to see it.

Request walk: app.py -> [usage.py] -> deployments.access.usage.report
"""

from functools import cache
from typing import Annotated, Any

from fastapi import FastAPI, Query

from deployments.access.caller import Caller
from deployments.access.scopes import Action
from deployments.access.usage.report import By, Period, UsageReport
from deployments.control.dependencies import CallerOf
from deployments.control.openapi import USAGE_TAG
from deployments.settings import ServingSettings
from deployments.state.usage_tables import open_usage

PATH = "/api/v1/usage"


def add_usage_routes(api: FastAPI, settings: ServingSettings) -> None:
    """Add the paths. They are plain functions, which FastAPI runs in threads: the database may be slow."""

    @cache
    def open_report() -> UsageReport:
        return UsageReport(open_usage(settings.platform))

    @api.get(PATH, tags=[USAGE_TAG], summary="Get usage")
    def get_usage(
        caller: CallerOf,
        by: By = "model",
        start: Annotated[str | None, Query(alias="from", description="A date, or an hour as 2026-11-01T13.")] = None,
        end: Annotated[str | None, Query(alias="to", description="As `from`; not in it.")] = None,
        tenant: Annotated[str | None, Query(description="Whose; by default all that the key may see.")] = None,
    ) -> dict[str, Any]:
        """What was answered, counted once each: requests, rows, tokens, seconds of compute, bytes.

        `joules` and `co2_g` are null: not measured.
        """
        period = Period.parse(start, end)
        return {"by": by, "usage": open_report().list_usage(by, period, _list_tenants(caller, tenant, open_report()))}

    @api.get(PATH + "/capacity", tags=[USAGE_TAG], summary="Get capacity")
    def get_capacity(
        caller: CallerOf,
        start: Annotated[str | None, Query(alias="from", description="A date, or an hour as 2026-11-01T13.")] = None,
        end: Annotated[str | None, Query(alias="to", description="As `from`; not in it.")] = None,
    ) -> dict[str, Any]:
        """What the cluster's core-hours went to: passes, idle replicas, training, others, nothing."""
        caller.check(Action.USAGE)
        return open_report().summarize_capacity(Period.parse(start, end))


def _list_tenants(caller: Caller, tenant: str | None, report: UsageReport) -> tuple[str, ...] | None:
    """The tenants whose usage a caller asks for and may see; None for everybody's."""
    if tenant is not None:
        caller.check(Action.USAGE, tenant)
        return (tenant,)
    if caller.may(Action.USAGE, "*"):
        return None
    caller.check(Action.USAGE, caller.tenant)
    return tuple(each for each in report.list_tenants() if caller.may(Action.USAGE, each))
