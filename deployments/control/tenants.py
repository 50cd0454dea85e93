"""The paths below /api/v1/tenants: what tenants may use, for callers whose own key allows to manage their keys.

Request walk: app.py -> [tenants.py] -> deployments.access.tenants
"""

from functools import cache
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from pydantic import ConfigDict, Field

from deployments.access.limits.limit import EXAMPLES
from deployments.access.tenants import MAX_WEIGHT, MIN_WEIGHT, TenantManager
from deployments.control.dependencies import build_recorder_dependency, get_caller
from deployments.control.keys import REMOVE_LIMITS
from deployments.control.openapi import KEYS_TAG
from deployments.settings import ServingSettings
from deployments.state.tenant_store import TenantStore
from training.schema import StrictModel

PATH = "/api/v1/tenants"


class TenantChange(StrictModel):
    """A change of a tenant; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"example": {"limits": ["requests=1000/day"], "weight": 2}})

    limits: list[str] = Field(
        [], description=f"What all its keys together may use: {EXAMPLES}. Those of other names stay."
    )
    remove_limits: list[str] = Field([], description=REMOVE_LIMITS)
    weight: float | None = Field(
        None, ge=MIN_WEIGHT, le=MAX_WEIGHT, description="Its share of a busy replica, beside others of weight 1."
    )


def add_tenant_routes(api: FastAPI, settings: ServingSettings) -> None:
    """Add the paths. They are plain functions, which FastAPI runs in threads: the database may be slow."""

    @cache
    def open_store() -> TenantStore:
        return TenantStore(settings.platform)

    get_recorder = build_recorder_dependency(settings)

    def open_manager(request: Request) -> TenantManager:
        return TenantManager(open_store(), get_caller(request), get_recorder(request))

    Manager = Annotated[TenantManager, Depends(open_manager)]

    @api.get(PATH, tags=[KEYS_TAG], summary="List tenants")
    def list_tenants(manager: Manager) -> dict[str, Any]:
        """The tenants that something was set for, and whose keys the caller's key may manage."""
        return {"tenants": [tenant.describe() for tenant in manager.list()]}

    @api.get(PATH + "/{tenant}", tags=[KEYS_TAG], summary="Get a tenant")
    def get_tenant(tenant: str, manager: Manager) -> dict[str, Any]:
        """What one tenant's keys together may use, and its weight."""
        return manager.get(tenant).describe()

    @api.patch(PATH + "/{tenant}", tags=[KEYS_TAG], summary="Change a tenant")
    def update_tenant(tenant: str, change: TenantChange, manager: Manager) -> dict[str, Any]:
        """Other limits, or another weight; in force everywhere within a second. Nobody changes his own tenant's."""
        return manager.update(tenant, change.limits, change.remove_limits, change.weight).describe()
