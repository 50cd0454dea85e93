"""Key store: the digests of callers' API keys, in the database of the deployments.

Deploy walk: cluster.rollout.change -> [key_store.py] -> deployments.edge.directory
Keys themselves are kept nowhere: a digest of 256 random bits tells nothing of them.
"""

import hashlib
import time

from sqlalchemy import Column, Connection, Float, MetaData, String, Table, create_engine, delete, select

from training.registry.opening import lock_store

_METADATA = MetaData()
_KEYS = Table(
    "api_keys",
    _METADATA,
    Column("digest", String(64), primary_key=True),
    Column("caller", String(63), nullable=False),
    Column("created_s", Float, nullable=False),
)


class KeyStore:
    """The table of keys, in SQLite or PostgreSQL."""

    def __init__(self, uri: str) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
        """
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    def list_keys(self) -> dict[str, str]:
        """The name of each key's caller, by the key's digest."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_KEYS.c.digest, _KEYS.c.caller).order_by(_KEYS.c.digest))
            return {row.digest: row.caller for row in rows}

    def add_key(self, key: str, caller: str) -> None:
        """Let a key in; within a second, on every edge."""
        with self._engine.begin() as connection:
            _replace_key(connection, key, caller)

    def set_key(self, key: str, caller: str) -> None:
        """Make a key the only one of its caller."""
        with self._engine.begin() as connection:
            connection.execute(delete(_KEYS).where(_KEYS.c.caller == caller))
            _replace_key(connection, key, caller)

    def revoke_key(self, key: str) -> None:
        """Keep a key out; within a second, on every edge."""
        with self._engine.begin() as connection:
            connection.execute(delete(_KEYS).where(_KEYS.c.digest == hash_key(key)))


def _replace_key(connection: Connection, key: str, caller: str) -> None:
    digest = hash_key(key)
    connection.execute(delete(_KEYS).where(_KEYS.c.digest == digest))
    connection.execute(_KEYS.insert().values(digest=digest, caller=caller, created_s=time.time()))


def hash_key(key: str) -> str:
    """The digest that stands for a key."""
    return hashlib.sha256(key.encode()).hexdigest()
