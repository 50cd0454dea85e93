"""Usage tables: what was used by the hour, what was held, and how far each outbox is counted.

Usage walk: usage_store.py -> [usage_tables.py]
Apart from the store that writes, so that a command which reads imports no numpy.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
)

from training.registry.opening import check_database, lock_store

DIMENSIONS = ("hour_s", "tenant", "key", "key_id", "model", "version", "kind")
COUNTERS = (
    "requests",
    "refused",
    "failed",
    "rows",
    "tokens_in",
    "tokens_out",
    "compute_ns",
    "bytes_in",
    "bytes_out",
)
"""Of answered requests; `refused` (4xx) and `failed` (5xx) ones are counted by themselves, and nothing else of them."""

HOUR_S = 3600
# Of what the cluster has: replicas, training runs, others of Shoal's and Ray's processes; and all of it.
REPLICA, TRAINING, OTHER, CLUSTER = "replica", "training", "other", "cluster"

METADATA = MetaData()
_TYPES: dict[str, Any] = dict(zip(DIMENSIONS, map(String, (0, 63, 127, 16, 63, 20, 0)), strict=True))
_TYPES |= {"hour_s": BigInteger, "kind": Integer}
SUMS = Table(
    "usage_sums",
    METADATA,
    *(Column(name, _TYPES[name], primary_key=True) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in COUNTERS),
)
OUTBOXES = Table(
    "usage_outboxes",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("alive_until_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
)
# Ids of one batch each, by their first eight bytes.
RECENT = Table(
    "usage_recent",
    METADATA,
    Column("outbox", String(32), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("counted_s", Float, nullable=False, index=True),
    Column("ids", LargeBinary, nullable=False),
)
# What was held, and of that, what passes used; and what the cluster had: milliseconds of cores and GPUs.
CAPACITY = Table(
    "usage_capacity",
    METADATA,
    Column("hour_s", BigInteger, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("name", String(127), primary_key=True),
    Column("cpu_ms", BigInteger, nullable=False),
    Column("used_cpu_ms", BigInteger, nullable=False),
    Column("gpu_ms", BigInteger, nullable=False),
)
CAPACITY_COUNTERS = ("cpu_ms", "used_cpu_ms", "gpu_ms")
REQUESTS = Table(
    "usage_requests",
    METADATA,
    Column("event", String(32), primary_key=True),
    Column("request_id", String(128), nullable=False),
    Column("ended_s", Float, nullable=False, index=True),
    Column("caller", String(127), nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", String(20), nullable=False),
    Column("status", Integer, nullable=False),
)
Index("usage_requests_by_id", REQUESTS.c.request_id)


def open_usage(uri: str) -> Engine:
    """Open the database; creates it if it is a missing SQLite file.

    Args:
        uri: SQLAlchemy's.

    Raises:
        UserError: the database cannot be opened.
    """
    check_database(uri, "SHOAL_PLATFORM_URI")
    with lock_store(uri, "tables"):
        engine = create_engine(uri)
        METADATA.create_all(engine)
    return engine


def split_hours(start_s: float, end_s: float) -> Iterable[tuple[int, float]]:
    """Split a time into its hours: the start of each, and the seconds in it."""
    while start_s < end_s:
        hour_s = int(start_s // HOUR_S) * HOUR_S
        stop_s = min(end_s, hour_s + HOUR_S)
        yield hour_s, stop_s - start_s
        start_s = stop_s
