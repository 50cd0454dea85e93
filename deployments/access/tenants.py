"""Tenants: who owns keys, what all of them together may use, and the share of a busy replica that they get.

Request walk: deployments.control.tenants -> [tenants.py] -> deployments.state.tenant_store
A tenant that nobody has set anything for has no limits, and weight 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deployments.access.api_keys import check_name
from deployments.access.audit.recorder import ChangeRecorder
from deployments.access.caller import Caller
from deployments.access.limits.limit import change_limits
from deployments.access.scopes import Action
from deployments.errors import Forbidden
from training.errors import UserError

if TYPE_CHECKING:
    from deployments.state.tenant_store import TenantStore

MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0


@dataclass(frozen=True)
class Tenant:
    """A tenant.

    Attributes:
        name: of it.
        limits: what all its keys together may use: amounts by the limit's name.
        weight: its share of a busy replica, beside those of other tenants.
    """

    name: str
    limits: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    def describe(self) -> dict[str, Any]:
        """The tenant as JSON."""
        return {"name": self.name, "limits": dict(self.limits), "weight": self.weight}


class TenantManager:
    """The tenants that one caller may see, and change."""

    def __init__(self, store: "TenantStore", caller: Caller, recorder: ChangeRecorder) -> None:
        """Make a manager.

        Args:
            store: of the tenants.
            caller: who manages.
            recorder: of the changes.
        """
        self._store, self._caller, self._recorder = store, caller, recorder

    def list(self) -> list[Tenant]:
        """List the tenants whose keys the caller may manage."""
        return [each for each in self._store.list_tenants() if self._caller.may(Action.KEYS, each.name)]

    def get(self, name: str) -> Tenant:
        """Get a tenant.

        Raises:
            Forbidden: the caller may not manage its keys.
        """
        self._caller.check(Action.KEYS, name)
        return self._store.get_tenant(name)

    def update(
        self, name: str, limits: Iterable[str] = (), removed_limits: Iterable[str] = (), weight: float | None = None
    ) -> Tenant:
        """Change what a tenant's keys together may use, and its weight; what is not named stays.

        Args:
            name: of the tenant.
            limits: to add, or in the place of others of their name; see `parse_limit`.
            removed_limits: names of limits to remove, as requests/day.
            weight: its share.

        Raises:
            UserError: a value is not valid.
            Forbidden: the caller may not manage the tenant's keys, or belongs to it: nobody raises his own limits.
        """
        self._caller.check(Action.KEYS, name)
        if self._caller.tenant == name and not self._caller.may(Action.ADMIN, name):
            raise Forbidden(f"the key {self._caller.name} belongs to {name}, and may not change what {name} may use")
        check_name("tenant", name)
        if weight is not None and not MIN_WEIGHT <= weight <= MAX_WEIGHT:
            raise UserError(f"weight={weight:g}; choose one from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, where others have 1")
        tenant = self._store.get_tenant(name)
        changed = replace(
            tenant,
            limits=change_limits(tenant.limits, limits, removed_limits),
            weight=tenant.weight if weight is None else weight,
        )
        with self._recorder.record("tenant.update", name, before=tenant.describe(), after=changed.describe()):
            self._store.put_tenant(changed)
        return changed
