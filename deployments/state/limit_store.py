"""Limit store: what each key and tenant has used in each window, in the database of the deployments.

Request walk: deployments.access.limits.ledger -> [limit_store.py]
`used` is what requests took, `reserved` what replicas hold and have not used yet. No statement lets their sum pass the
limit, whoever else writes.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    create_engine,
    delete,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from training.registry.opening import lock_store

_METADATA = MetaData()
_WINDOWS = Table(
    "limit_windows",
    _METADATA,
    Column("subject", String(80), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("start_s", Integer, primary_key=True),
    Column("used", Float, nullable=False),
    Column("reserved", Float, nullable=False),
)
# Windows are kept until a month's bill is settled.
KEEP_S = 100 * 86400
# Another writer may take what was left between a read and the next statement.
_ATTEMPTS = 4


class WindowKey(NamedTuple):
    """Names a window: of a subject's limit, and its start in whole seconds since the epoch."""

    subject: str
    name: str
    start_s: int


class Counters(NamedTuple):
    """What a window has come to."""

    used: float = 0.0
    reserved: float = 0.0

    @property
    def total(self) -> float:
        """What is not there any more."""
        return self.used + self.reserved


class Reservation(NamedTuple):
    """What was reserved, and what the window has come to with it."""

    granted: float
    counters: Counters


class LimitTransaction:
    """Changes that are made together; see LimitStore.begin."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Both databases have it, each in its own dialect.
        self._insert: Callable[[Table], sqlite.Insert | postgresql.Insert] = (
            postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        )

    def settle(self, key: WindowKey, used: float, released: float) -> None:
        """Count what was used, and take back what is not reserved any more."""
        values = {"used": _WINDOWS.c.used + used, "reserved": _WINDOWS.c.reserved - released}
        self._connection.execute(update(_WINDOWS).where(_match(key)).values(values))

    def reserve(self, key: WindowKey, amount: float, least: float, limit: float) -> Reservation:
        """Reserve an amount, or where there is not so much, what there is up to `least`.

        Args:
            key: of the window.
            amount: to reserve where there is room for all of it.
            least: to reserve otherwise, or what there is of it, in whole units.
            limit: of the window.
        """
        if reservation := self._try_reserve(key, amount, limit):
            return reservation
        counters = Counters()
        for _ in range(_ATTEMPTS):
            counters = self._read(key)
            part = min(least, limit - counters.total)
            part = part if part == least else float(part // 1)
            if part <= 0:
                break
            if reservation := self._try_reserve(key, part, limit):
                return reservation
        return Reservation(0.0, counters)

    def _try_reserve(self, key: WindowKey, amount: float, limit: float) -> Reservation | None:
        total = _WINDOWS.c.used + _WINDOWS.c.reserved
        changed = (
            update(_WINDOWS)
            .where(_match(key), total + amount <= limit)
            .values(reserved=_WINDOWS.c.reserved + amount)
            .returning(_WINDOWS.c.used, _WINDOWS.c.reserved)
        )
        row = self._connection.execute(changed).one_or_none()
        return None if row is None else Reservation(amount, Counters(*row))

    def _read(self, key: WindowKey) -> Counters:
        """Read a window's counters; makes the row where there is none."""
        row = self._connection.execute(select(_WINDOWS.c.used, _WINDOWS.c.reserved).where(_match(key))).one_or_none()
        if row is None:
            values = key._asdict() | {"used": 0.0, "reserved": 0.0}
            self._connection.execute(self._insert(_WINDOWS).values(values).on_conflict_do_nothing())
            return Counters()
        return Counters(*row)


class LimitStore:
    """The table of windows, in SQLite or PostgreSQL."""

    def __init__(self, uri: str) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
        """
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    def run(self, change: Callable[[LimitTransaction], None]) -> None:
        """Make changes together: all of them, or none where one fails."""
        with self._engine.begin() as connection:
            change(LimitTransaction(connection))

    def get_counters(self, key: WindowKey) -> Counters:
        """What a window has come to; zeros for one that nothing was used in."""
        query = select(_WINDOWS.c.used, _WINDOWS.c.reserved).where(_match(key))
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return Counters() if row is None else Counters(*row)

    def delete_old(self, now_s: float | None = None) -> None:
        """Delete the windows that began long ago."""
        oldest_s = int((time.time() if now_s is None else now_s) - KEEP_S)
        with self._engine.begin() as connection:
            connection.execute(delete(_WINDOWS).where(_WINDOWS.c.start_s < oldest_s))


def _match(key: WindowKey) -> ColumnElement[bool]:
    return and_(_WINDOWS.c.subject == key.subject, _WINDOWS.c.name == key.name, _WINDOWS.c.start_s == key.start_s)
