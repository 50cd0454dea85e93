"""Usage store: sums of what requests came to, by the hour; each event once, each outbox's position with its sums.

Request walk: deployments.access.usage.collector -> [usage_store.py] -> usage_tables.py
Sums and position change in one transaction: whatever is killed, and whenever, a batch is counted or not, and who sends
it again learns which. Ids of what was counted lately are kept beside them, since an answer that a dying replica could
not send was computed elsewhere under the same id.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from deployments.access.usage.batch_sums import decode_records, list_requests, sum_records
from deployments.access.usage.outbox import OutboxSource, UsageBatch
from deployments.state.usage_tables import (
    CAPACITY,
    CAPACITY_COUNTERS,
    COUNTERS,
    HOUR_S,
    OUTBOXES,
    RECENT,
    REPLICA,
    REQUESTS,
    SUMS,
    open_usage,
    split_hours,
)

# An id comes twice within a request's time limit and the wait for another replica.
RECENT_S = 120.0
# Of a process that has ended, others may have answered long before its outbox is found.
LOOKBACK_S = 3600.0
PRUNE_INTERVAL_S = 30.0
# Outboxes whose processes are gone.
FORGET_S = 30 * 86400.0


class UsageStore:
    """The tables of usage, in SQLite or PostgreSQL; one process writes at a time, the collector."""

    def __init__(self, uri: str, trace_days: float = 0.0) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
            trace_days: how long each single request is kept; 0 for sums alone.
        """
        self._trace_days = trace_days
        self.engine = open_usage(uri)
        self._lock = threading.Lock()
        # Ids by when they were counted; None where the database has to be asked.
        self._recent: set[int] | None = None
        self._recent_batches: deque[tuple[float, list[int]]] = deque()
        self._pruned_s = 0.0

    def add(self, batch: UsageBatch) -> int:
        """Count a batch; returns the number of the first record of its outbox that is not counted yet.

        A batch that was counted, or begins behind that number, changes nothing.
        """
        with self._lock:
            try:
                return self._add(batch)
            except BaseException:
                # Whether it was committed is not known.
                self._recent = None
                raise

    def _add(self, batch: UsageBatch) -> int:
        now_s = time.time()
        with self.engine.begin() as connection:
            position, alive_until_s = self._lock_outbox(connection, batch.source, now_s)
            if not batch.position <= position <= batch.position + len(batch):
                return position
            end = batch.position + len(batch)
            skipped = position - batch.position
            records = decode_records(batch)[skipped:]
            fresh_ids: list[int] = []
            if len(records):
                is_fresh, fresh_ids = self._find_fresh(connection, records, batch.is_dead, now_s)
                ids = records["id"][is_fresh].tobytes()
                values = {"outbox": batch.source.id, "position": position, "counted_s": now_s, "ids": ids}
                connection.execute(insert(RECENT).values(values))
                self._upsert(connection, SUMS, sum_records(batch, records[is_fresh]), COUNTERS)
                if self._trace_days:
                    self._keep_requests(connection, batch, records, skipped, is_fresh)
            until_s = max(alive_until_s, batch.alive_until_s)
            rows = [*_split_capacity(batch.source, alive_until_s, until_s), *_sum_used(batch.source, records)]
            self._upsert(connection, CAPACITY, rows, CAPACITY_COUNTERS)
            changed = update(OUTBOXES).where(OUTBOXES.c.id == batch.source.id)
            connection.execute(changed.values(position=end, alive_until_s=until_s, updated_s=now_s))
            if now_s - self._pruned_s > PRUNE_INTERVAL_S:
                self._prune(connection, now_s)
        if fresh_ids and self._recent is not None:
            self._recent.update(fresh_ids)
            self._recent_batches.append((now_s, fresh_ids))
        return end

    def _lock_outbox(self, connection: Connection, source: OutboxSource, now_s: float) -> tuple[int, float]:
        """Lock an outbox's row, which is made for a new one; returns its position, and until when it was metered."""
        # A write first, so that SQLite takes its lock before anything is read.
        changed = update(OUTBOXES).where(OUTBOXES.c.id == source.id).values(updated_s=now_s)
        if connection.execute(changed).rowcount == 0:
            values = {"id": source.id, "position": 0, "alive_until_s": source.started_s, "updated_s": now_s}
            connection.execute(insert(OUTBOXES).values(values))
        row = connection.execute(select(OUTBOXES).where(OUTBOXES.c.id == source.id)).one()
        return row.position, row.alive_until_s

    def _find_fresh(
        self, connection: Connection, records: "np.ndarray[Any, Any]", is_dead: bool, now_s: float
    ) -> tuple["np.ndarray[Any, Any]", list[int]]:
        """Find the records whose ids have not been counted; answers and refusals have ids of their own."""
        keys = (records["id"] ^ np.where(records["status"] < 300, 0, 1).astype(np.uint64)).tolist()
        recent = self._load_recent(connection, now_s)
        if is_dead:
            recent = recent | _read_ids(connection, now_s - LOOKBACK_S)
        seen: set[int] = set()
        is_fresh = np.zeros(len(keys), bool)
        for index, key in enumerate(keys):
            if key not in recent and key not in seen:
                is_fresh[index] = True
                seen.add(key)
        records["id"] = keys
        return is_fresh, list(seen)

    def _load_recent(self, connection: Connection, now_s: float) -> set[int]:
        if self._recent is None:
            self._recent = _read_ids(connection, now_s - RECENT_S)
            self._recent_batches = deque([(now_s, list(self._recent))])
        while self._recent_batches and self._recent_batches[0][0] < now_s - RECENT_S:
            self._recent.difference_update(self._recent_batches.popleft()[1])
        return self._recent

    def _keep_requests(
        self, connection: Connection, batch: UsageBatch, records: Any, skipped: int, is_fresh: Any
    ) -> None:
        rows = list_requests(batch, records, skipped)
        values = [row for row, fresh in zip(rows, is_fresh.tolist(), strict=True) if fresh]
        if values:
            self._insert_missing(connection, REQUESTS, values)

    def _prune(self, connection: Connection, now_s: float) -> None:
        connection.execute(delete(RECENT).where(RECENT.c.counted_s < now_s - LOOKBACK_S))
        connection.execute(delete(OUTBOXES).where(OUTBOXES.c.updated_s < now_s - FORGET_S))
        connection.execute(delete(REQUESTS).where(REQUESTS.c.ended_s < now_s - self._trace_days * 86400))
        self._pruned_s = now_s

    def add_capacity(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add to what the cluster had, and what others than replicas held."""
        with self.engine.begin() as connection:
            self._upsert(connection, CAPACITY, list(rows), CAPACITY_COUNTERS)

    def find_requests(self, request_id: str) -> list[dict[str, Any]]:
        """Find the requests of an id: the caller's own, or the edge's; several where a caller repeats it."""
        query = select(REQUESTS).where(REQUESTS.c.request_id == request_id).order_by(REQUESTS.c.ended_s)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _upsert(
        self, connection: Connection, table: Table, rows: list[dict[str, Any]], counters: Iterable[str]
    ) -> None:
        for row in rows:
            statement: Any = self._dialect.insert(table).values(row)
            added = {name: table.c[name] + statement.excluded[name] for name in counters}
            keys = [column.name for column in table.primary_key]
            connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=added))

    def _insert_missing(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        connection.execute(self._dialect.insert(table).on_conflict_do_nothing(), rows)

    @property
    def _dialect(self) -> Any:
        return postgresql if self.engine.dialect.name == "postgresql" else sqlite


def _read_ids(connection: Connection, since_s: float) -> set[int]:
    blobs = connection.execute(select(RECENT.c.ids).where(RECENT.c.counted_s >= since_s)).scalars()
    return {key for blob in blobs for key in np.frombuffer(blob, np.uint64).tolist()}


def _split_capacity(source: OutboxSource, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """What a replica held in some time."""
    return [
        {
            "hour_s": hour_s,
            "kind": REPLICA,
            "name": source.model,
            "cpu_ms": round(seconds * source.cpus * 1000),
            "used_cpu_ms": 0,
            "gpu_ms": round(seconds * source.gpus * 1000),
        }
        for hour_s, seconds in split_hours(start_s, end_s)
    ]


def _sum_used(source: OutboxSource, records: "np.ndarray[Any, Any]") -> list[dict[str, Any]]:
    """What passes used of it: all of a replica's cores while they last, for requests that were answered or not."""
    hours = records["ended_s"] // HOUR_S
    return [
        {
            "hour_s": int(hour) * HOUR_S,
            "kind": REPLICA,
            "name": source.model,
            "cpu_ms": 0,
            "used_cpu_ms": round(float(records["compute_s"][hours == hour].sum()) * source.cpus * 1000),
            "gpu_ms": 0,
        }
        for hour in np.unique(hours)
    ]
