"""Key manager: makes, changes and revokes keys, for a caller who may do no more than the caller's own key allows.

Request walk: deployments.control.keys -> [key_manager.py] -> deployments.state.key_store
The command line is the same manager in the name of the cluster's own key: who reads its secrets may do everything.
"""

import time
from dataclasses import replace
from typing import NamedTuple

from deployments.access.api_keys import DEFAULT_GRACE_S, ApiKey, parse_expiry
from deployments.access.caller import Caller
from deployments.access.scopes import Action, Scope, format_scopes, includes_all, parse_scopes
from deployments.errors import Forbidden, NotFound
from deployments.state.key_store import KeyStore


class CreatedKey(NamedTuple):
    """A key's record, and what its caller sends: shown once, kept nowhere."""

    record: ApiKey
    key: str


class KeyManager:
    """The keys that one caller may manage."""

    def __init__(self, store: KeyStore, caller: Caller, author: str = "") -> None:
        """Make a manager.

        Args:
            store: of the keys.
            caller: who manages.
            author: for the record; the caller's name where it is empty.
        """
        self._store, self._caller, self._author = store, caller, author or caller.name

    def create(self, tenant: str, name: str, allow: str, expires: str) -> CreatedKey:
        """Make a key.

        Args:
            tenant: that owns it.
            name: of the key.
            allow: scopes and roles, separated by commas.
            expires: see `parse_expiry`.

        Raises:
            UserError: a value is not valid, or the tenant has such a key.
            Forbidden: the caller may not manage the tenant's keys, or the key would allow more than the caller's.
        """
        self._caller.check(Action.KEYS, tenant)
        record = ApiKey.new(tenant, name, allow, expires, self._author)
        self._check_scopes(record.scopes)
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
        return CreatedKey(record, self._store.rotate_key(key_id, grace_s))

    def update(self, key_id: str, allow: str | None = None, expires: str | None = None) -> ApiKey:
        """Change what a key allows, and when it expires; what is None stays.

        Raises:
            NotFound: there is no such key.
            Forbidden: it allowed or would allow more than the caller's.
        """
        record = self.get(key_id)
        self._check_scopes(record.scopes)
        if allow is not None:
            record = replace(record, scopes=parse_scopes(allow, record.tenant))
            self._check_scopes(record.scopes)
        if expires is not None:
            record = replace(record, expires_s=parse_expiry(expires))
        self._store.update_key(record)
        return record

    def revoke(self, key_id: str) -> ApiKey:
        """Keep a key out, within a second.

        Raises:
            NotFound: there is no such key.
        """
        record = self.get(key_id)
        self._store.revoke_key(key_id)
        return replace(record, revoked_s=time.time())

    def _check_scopes(self, scopes: tuple[Scope, ...]) -> None:
        if not includes_all(self._caller.scopes, scopes):
            raise Forbidden(
                f"the key {self._caller.name} does not allow all of {format_scopes(scopes)}, and may not make, change "
                f"or rotate a key that does; it allows {format_scopes(self._caller.scopes)}"
            )
