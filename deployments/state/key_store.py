"""Key store: tenants' API keys, in the database of the deployments; of each secret only a digest.

Deploy walk: deployments.control.keys -> [key_store.py] -> deployments.edge.valid_keys
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from deployments.access.api_keys import ApiKey, generate_key, hash_key, read_pepper
from deployments.access.caller import Caller
from deployments.access.scopes import format_scopes, parse_scopes
from deployments.settings import ServingSettings
from training.errors import UserError
from training.registry.opening import lock_store

_METADATA = MetaData()
_KEYS = Table(
    "access_keys",
    _METADATA,
    Column("id", String(16), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("name", String(63), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("limits", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("created_by", String(127), nullable=False),
    Column("expires_s", Float),
    Column("revoked_s", Float),
)
# A revoked key's name is free again.
Index(
    "access_key_names",
    _KEYS.c.tenant,
    _KEYS.c.name,
    unique=True,
    sqlite_where=_KEYS.c.revoked_s.is_(None),
    postgresql_where=_KEYS.c.revoked_s.is_(None),
)
# Two of one key while it is rotated.
_SECRETS = Table(
    "access_key_secrets",
    _METADATA,
    Column("digest", String(64), primary_key=True),
    Column("key_id", String(16), ForeignKey(_KEYS.c.id), nullable=False, index=True),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float),
)


@dataclass(frozen=True)
class KeySnapshot:
    """The keys of a moment.

    Attributes:
        callers: by the digest of the key that each sends.
    """

    callers: dict[str, Caller] = field(default_factory=dict)

    def encode_valid(self, now_s: float) -> dict[str, str]:
        """What the edges' map holds: the callers whose keys have not expired."""
        return {digest: caller.encode() for digest, caller in self.callers.items() if caller.expires_s > now_s}


class KeyStore:
    """The tables of keys, in SQLite or PostgreSQL."""

    def __init__(self, uri: str, pepper: str) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
            pepper: key of the digests; see access/api_keys.py.
        """
        self._pepper = pepper
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    @classmethod
    def open(cls, settings: ServingSettings) -> "KeyStore":
        """Open the store of a cluster.

        Raises:
            UserError: the cluster has no secrets yet.
        """
        return cls(settings.platform, read_pepper(settings.home))

    def create_key(self, key: ApiKey) -> str:
        """Write a new key; returns what its caller sends, which is kept nowhere.

        Raises:
            UserError: the tenant has a key of this name.
        """
        secret = generate_key(key.id)
        values = {
            "id": key.id,
            "tenant": key.tenant,
            "name": key.name,
            "scopes": format_scopes(key.scopes),
            "limits": json.dumps(dict(key.limits)),
            "created_s": key.created_s,
            "created_by": key.created_by,
            "expires_s": key.expires_s,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_KEYS).values(values))
                self._add_secret(connection, key.id, secret)
        except IntegrityError:
            raise UserError(
                f"tenant {key.tenant} has a key {key.name!r}; choose another name, or rotate or revoke that one"
            ) from None
        return secret

    def list_keys(self, tenant: str | None = None, *, with_revoked: bool = False) -> list[ApiKey]:
        """List keys by tenant and name, those that were revoked last."""
        query = select(_KEYS).order_by(_KEYS.c.revoked_s.is_not(None), _KEYS.c.tenant, _KEYS.c.name, _KEYS.c.created_s)
        if tenant is not None:
            query = query.where(_KEYS.c.tenant == tenant)
        if not with_revoked:
            query = query.where(_KEYS.c.revoked_s.is_(None))
        with self._engine.connect() as connection:
            return [_read_key(row._mapping) for row in connection.execute(query)]

    def get_key(self, key_id: str) -> ApiKey | None:
        """Get a key, revoked or not; None for no such id."""
        with self._engine.connect() as connection:
            row = connection.execute(select(_KEYS).where(_KEYS.c.id == key_id)).one_or_none()
        return None if row is None else _read_key(row._mapping)

    def find_key(self, reference: str) -> ApiKey:
        """Find a key that is not revoked by its id, its TENANT/NAME, or its name where only one tenant has it.

        Raises:
            UserError: there is none, or several.
        """
        tenant, slash, name = reference.rpartition("/")
        found = [
            key
            for key in self.list_keys()
            if key.id == reference or (key.name == name and (not slash or key.tenant == tenant))
        ]
        if len(found) > 1:
            named = ", ".join(f"{key.tenant}/{key.name}" for key in found)
            raise UserError(f"several tenants have a key {reference!r}; name one of {named}")
        if not found:
            raise UserError(f"no key {reference!r}; `shoal keys list` shows them")
        return found[0]

    def rotate_key(self, key_id: str, grace_s: float) -> str:
        """Give a key a new secret; the one before is good for grace_s more, older ones no longer.

        Raises:
            UserError: there is no such key.
        """
        now_s, secret = time.time(), generate_key(key_id)
        with self._engine.begin() as connection:
            self._lock_key(connection, key_id)
            newest = select(_SECRETS.c.digest).where(_SECRETS.c.key_id == key_id).order_by(_SECRETS.c.created_s.desc())
            digest = connection.execute(newest.limit(1)).scalar_one()
            others = (_SECRETS.c.key_id == key_id) & (_SECRETS.c.digest != digest)
            connection.execute(delete(_SECRETS).where(others))
            changed = update(_SECRETS).where(_SECRETS.c.digest == digest)
            connection.execute(changed.values(expires_s=now_s + grace_s))
            self._add_secret(connection, key_id, secret)
        return secret

    def revoke_key(self, key_id: str) -> None:
        """Keep a key out; within a second, at every edge.

        Raises:
            UserError: there is no such key.
        """
        with self._engine.begin() as connection:
            self._lock_key(connection, key_id)
            connection.execute(update(_KEYS).where(_KEYS.c.id == key_id).values(revoked_s=time.time()))
            connection.execute(delete(_SECRETS).where(_SECRETS.c.key_id == key_id))

    def update_key(self, key: ApiKey) -> None:
        """Write a key's scopes, limits and expiry.

        Raises:
            UserError: there is no such key.
        """
        values = {
            "scopes": format_scopes(key.scopes),
            "limits": json.dumps(dict(key.limits)),
            "expires_s": key.expires_s,
        }
        with self._engine.begin() as connection:
            self._lock_key(connection, key.id)
            connection.execute(update(_KEYS).where(_KEYS.c.id == key.id).values(values))

    def load(self) -> KeySnapshot:
        """Read what the edges have to know."""
        query = select(_KEYS, _SECRETS.c.digest, _SECRETS.c.expires_s.label("secret_expires_s"))
        joined = query.join(_SECRETS, _SECRETS.c.key_id == _KEYS.c.id).where(_KEYS.c.revoked_s.is_(None))
        with self._engine.connect() as connection:
            rows = connection.execute(joined.order_by(_SECRETS.c.digest)).all()
        snapshot = KeySnapshot()
        for row in rows:
            key = _read_key(row._mapping)
            expires_s = min(key.expires_s or math.inf, row.secret_expires_s or math.inf)
            snapshot.callers[row.digest] = Caller(f"{key.tenant}/{key.name}", key.id, key.scopes, expires_s)
        return snapshot

    def list_limits(self) -> dict[str, dict[str, str]]:
        """The limits of the keys that have some, by the key's id."""
        has_limits = _KEYS.c.revoked_s.is_(None) & (_KEYS.c.limits != "{}")
        with self._engine.connect() as connection:
            rows = connection.execute(select(_KEYS.c.id, _KEYS.c.limits).where(has_limits).order_by(_KEYS.c.id))
            return {row.id: json.loads(row.limits) for row in rows}

    def _add_secret(self, connection: Connection, key_id: str, secret: str) -> None:
        values = {"digest": hash_key(secret, self._pepper), "key_id": key_id, "created_s": time.time()}
        connection.execute(insert(_SECRETS).values(values))

    def _lock_key(self, connection: Connection, key_id: str) -> None:
        # A write, so that SQLite takes its lock now and not after a read; PostgreSQL locks the row.
        live = (_KEYS.c.id == key_id) & _KEYS.c.revoked_s.is_(None)
        if connection.execute(update(_KEYS).where(live).values(id=key_id)).rowcount == 0:
            raise UserError(f"no key {key_id!r}, or it is revoked; `shoal keys list` shows them")


def _read_key(row: Mapping[Any, Any]) -> ApiKey:
    return ApiKey(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        scopes=parse_scopes(row["scopes"], row["tenant"]),
        limits=json.loads(row["limits"]),
        created_s=row["created_s"],
        created_by=row["created_by"],
        expires_s=row["expires_s"],
        revoked_s=row["revoked_s"],
    )
