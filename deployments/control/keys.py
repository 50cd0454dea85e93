"""The paths below /api/v1/keys: tenants' API keys, for callers whose own key allows to manage them.

Request walk: app.py -> [keys.py] -> deployments.access.key_manager
"""

from functools import cache
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from pydantic import ConfigDict, Field

from deployments.access.api_keys import DEFAULT_GRACE_S
from deployments.access.key_manager import CreatedKey, KeyManager
from deployments.access.limits.limit import EXAMPLES
from deployments.access.scopes import LEAST
from deployments.control.dependencies import CallerOf, build_recorder_dependency, get_caller
from deployments.control.openapi import KEYS_TAG
from deployments.settings import ServingSettings
from deployments.state.key_store import KeyStore
from training.schema import StrictModel

PATH = "/api/v1/keys"
ALLOW = "Scopes as `predict:digits-*,read:*`, or roles, separated by commas."
LIMITS = f"What it may use: {EXAMPLES}."
REMOVE_LIMITS = "Names of limits to remove, such as requests/day."
EXPIRES = "`30d`, `12h`, `90m` from now, a date or time of ISO 8601, or `never`."


class NewKey(StrictModel):
    """A key to make."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"name": "ci", "allow": "predict:digits-*,read:*", "expires": "30d"}}
    )

    name: str = Field(description="Unique among the tenant's keys.")
    tenant: str | None = Field(None, description="That owns it; by default that of the caller's key.")
    allow: str = Field(LEAST, description=ALLOW)
    expires: str = Field("never", description=EXPIRES)
    limits: list[str] = Field([], description=LIMITS)


class KeyChange(StrictModel):
    """A change of a key; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"example": {"expires": "90d"}})

    allow: str | None = Field(None, description=ALLOW)
    expires: str | None = Field(None, description=EXPIRES)
    limits: list[str] = Field([], description=LIMITS + " Those of other names stay.")
    remove_limits: list[str] = Field([], description=REMOVE_LIMITS)


class Rotation(StrictModel):
    """A rotation of a key."""

    model_config = ConfigDict(json_schema_extra={"example": {"grace_s": 3600}})

    grace_s: float = Field(DEFAULT_GRACE_S, ge=0, le=30 * 86400, description="Seconds that the key before is good for.")


def add_key_routes(api: FastAPI, settings: ServingSettings) -> None:
    """Add the paths. They are plain functions, which FastAPI runs in threads: the database may be slow."""

    @cache
    def open_store() -> KeyStore:
        return KeyStore.open(settings)

    get_recorder = build_recorder_dependency(settings)

    def open_manager(request: Request) -> KeyManager:
        return KeyManager(open_store(), get_caller(request), get_recorder(request))

    Manager = Annotated[KeyManager, Depends(open_manager)]

    @api.get(PATH, tags=[KEYS_TAG], summary="List keys")
    def list_keys(manager: Manager, tenant: str | None = None, revoked: bool = False) -> dict[str, Any]:
        """The keys that the caller's key may manage; `revoked` for those that are revoked, too."""
        return {"keys": [key.describe() for key in manager.list(tenant, with_revoked=revoked)]}

    @api.post(PATH, tags=[KEYS_TAG], summary="Make a key", status_code=201)
    def create_key(new: NewKey, caller: CallerOf, manager: Manager, response: Response) -> dict[str, Any]:
        """A new key. `key` is what its caller sends; it is in this response and nowhere else."""
        tenant = caller.tenant if new.tenant is None else new.tenant
        created = manager.create(tenant, new.name, new.allow, new.expires, new.limits)
        return _describe_created(created, response)

    @api.get(PATH + "/{key_id}", tags=[KEYS_TAG], summary="Get a key")
    def get_key(key_id: str, manager: Manager) -> dict[str, Any]:
        """One key, revoked or not."""
        return manager.get(key_id).describe()

    @api.patch(PATH + "/{key_id}", tags=[KEYS_TAG], summary="Change a key")
    def update_key(key_id: str, change: KeyChange, manager: Manager) -> dict[str, Any]:
        """Other scopes, limits or another expiry; in force everywhere within a second."""
        changed = manager.update(key_id, change.allow, change.expires, change.limits, change.remove_limits)
        return changed.describe()

    @api.post(PATH + "/{key_id}/rotate", tags=[KEYS_TAG], summary="Rotate a key")
    def rotate_key(key_id: str, rotation: Rotation, manager: Manager, response: Response) -> dict[str, Any]:
        """A new secret for a key; the one before is good for `grace_s` more."""
        return _describe_created(manager.rotate(key_id, rotation.grace_s), response)

    @api.delete(PATH + "/{key_id}", tags=[KEYS_TAG], summary="Revoke a key")
    def revoke_key(key_id: str, manager: Manager) -> dict[str, Any]:
        """Keep a key out of every edge, within a second."""
        return manager.revoke(key_id).describe()


def _describe_created(created: CreatedKey, response: Response) -> dict[str, Any]:
    response.headers["cache-control"] = "no-store"
    return created.record.describe() | {"key": created.key}
