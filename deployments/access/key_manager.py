"""Key manager: makes, changes and revokes keys, for a caller who may do no more than the caller's own key allows.

Request walk: deployments.control.keys -> [key_manager.py] -> deployments.state.key_store
The command line is the same manager in the name of the cluster's own key: who reads its secrets may do everything.
"""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

from deployments.access.api_keys import DEFAULT_GRACE_S, ApiKey, parse_expiry
from deployments.access.audit.event import AuditAction
from deployments.access.audit.log import Change
from deployments.access.audit.recorder import ChangeRecorder
from deployments.access.caller import Caller
from deployments.access.limits.limit import change_limits
from deployments.access.scopes import Action, Scope, format_scopes, includes_all, parse_scopes
from deployments.errors import Forbidden, NotFound
from deployments.state.key_store import KeyStore


class CreatedKey(NamedTuple):
    """A key's record, and what its caller sends: shown once, kept nowhere."""

    record: ApiKey
    key: str


class KeyManager:
    """The keys that one caller may manage."""

    def __init__(self, store: KeyStore, caller: Caller, recorder: ChangeRecorder) -> None:
        """Make a manager.

        Args:
            store: of the keys.
            caller: who manages.
            recorder: of the changes.
        """
        self._store, self._caller, self._recorder = store, caller, recorder

    def create(self, tenant: str, name: str, allow: str, expires: str, limits: Iterable[str] = ()) -> CreatedKey:
        """Make a key.

        Args:
            tenant: that owns it.
            name: of the key.
            allow: scopes and roles, separated by commas.
            expires: see `parse_expiry`.
            limits: see `parse_limit`.

        Raises:
            UserError: a value is not valid, or the tenant has such a key.
            Forbidden: the caller may not manage the tenant's keys, or the key would allow more than the caller's.
        """
        self._caller.check(Action.KEYS, tenant)
        record = ApiKey.new(tenant, name, allow, expires, self._recorder.actor.name, limits)
        self._check_scopes(record.scopes)
        with self._record("key.create", record, after=_describe(record)):
            return CreatedKey(record, self._store.create_key(record))

    def list(self, tenant: str | None = None, *, with_revoked: bool = False) -> list[ApiKey]:
        """List the keys of a tenant, or of all whose keys the caller may manage."""
        if tenant is not None:
            self._caller.check(Action.KEYS, tenant)
        keys = self._store.list_keys(tenant, with_revoked=with_revoked)
        return [key for key in keys if self._caller.may(Action.KEYS, key.tenant)]

    def get(self, key_id: str) -> ApiKey:
        """Get a key by its id.

        Raises:
            NotFound: there is none that the caller may manage.
        """
        key = self._store.get_key(key_id)
        if key is None or not self._caller.may(Action.KEYS, key.tenant):
            raise NotFound(f"no key {key_id!r}; GET /api/v1/keys lists those that this key may manage")
        return key

    def find(self, reference: str) -> ApiKey:
        """Find a key by its id, TENANT/NAME, or its name where only one tenant has it.

        Raises:
            UserError: there is none, or several.
            NotFound: the caller may not manage it.
        """
        return self.get(self._store.find_key(reference).id)

    def rotate(self, key_id: str, grace_s: float = DEFAULT_GRACE_S) -> CreatedKey:
        """Give a key a new secret; the one before is good for grace_s more.

        Raises:
            NotFound: there is no such key.
            Forbidden: it allows more than the caller's.
        """
        record = self.get(key_id)
        # Who gets the secret may do what the key allows.
        self._check_scopes(record.scopes)
        with self._record("key.rotate", record, before=_describe(record), after={"grace_s": grace_s}):
            return CreatedKey(record, self._store.rotate_key(key_id, grace_s))

    def update(
        self,
        key_id: str,
        allow: str | None = None,
        expires: str | None = None,
        limits: Iterable[str] = (),
        removed_limits: Iterable[str] = (),
    ) -> ApiKey:
        """Change what a key allows, when it expires and what it may use; what is None, and other limits, stay.

        Args:
            key_id: of the key.
            allow: scopes and roles.
            expires: see `parse_expiry`.
            limits: to add, or in the place of others of their name; see `parse_limit`.
            removed_limits: names of limits to remove, as requests/day.

        Raises:
            NotFound: there is no such key.
            UserError: a value is not valid.
            Forbidden: it allowed or would allow more than the caller's.
        """
        record = before = self.get(key_id)
        self._check_scopes(record.scopes)
        if allow is not None:
            record = replace(record, scopes=parse_scopes(allow, record.tenant))
            self._check_scopes(record.scopes)
        if expires is not None:
            record = replace(record, expires_s=parse_expiry(expires))
        record = replace(record, limits=change_limits(record.limits, limits, removed_limits))
        with self._record("key.update", record, before=_describe(before), after=_describe(record)):
            self._store.update_key(record)
        return record

    def revoke(self, key_id: str) -> ApiKey:
        """Keep a key out, within a second.

        Raises:
            NotFound: there is no such key.
        """
        record = self.get(key_id)
        with self._record("key.revoke", record, before=_describe(record)):
            self._store.revoke_key(key_id)
        return replace(record, revoked_s=time.time())

    def _record(self, action: AuditAction, key: ApiKey, **states: Any) -> AbstractContextManager[Change]:
        return self._recorder.record(action, f"{key.tenant}/{key.name}", **states)

    def _check_scopes(self, scopes: tuple[Scope, ...]) -> None:
        if not includes_all(self._caller.scopes, scopes):
            raise Forbidden(
                f"the key {self._caller.name} does not allow all of {format_scopes(scopes)}, and may not make, change "
                f"or rotate a key that does; it allows {format_scopes(self._caller.scopes)}"
            )


def _describe(key: ApiKey) -> dict[str, Any]:
    """What a row of the audit log says of a key."""
    described = key.describe()
    return {name: described[name] for name in ("id", "allow", "limits", "expires")}
