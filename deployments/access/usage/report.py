"""Usage report: what was used, by tenant, key, model, version, day or hour; and what the cluster's hours went to.

Usage walk: deployments.control.usage -> [report.py] -> deployments.state.usage_tables
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import Engine, func, select

from deployments.access.usage.call_event import Kind
from deployments.state.usage_tables import CAPACITY, CLUSTER, COUNTERS, HOUR_S, OTHER, REPLICA, SUMS, TRAINING
from training.errors import UserError

By = Literal["tenant", "key", "model", "version", "day", "hour"]
BY: tuple[By, ...] = get_args(By)

DAY_S = 86_400
_COLUMNS: Mapping[By, tuple[str, ...]] = {
    "tenant": ("tenant",),
    "key": ("tenant", "key", "key_id"),
    "model": ("model",),
    "version": ("model", "version"),
    "day": ("day",),
    "hour": ("hour",),
}


@dataclass(frozen=True)
class Period:
    """From one hour to before another, in seconds since the epoch."""

    start_s: int = 0
    end_s: int = 2**40

    @classmethod
    def parse(cls, start: str | None, end: str | None) -> "Period":
        """Parse dates or hours of ISO 8601, in UTC; the end is not in it.

        Raises:
            UserError: one is none, or they are the wrong way round.
        """
        period = cls(
            0 if start is None else _parse_hour(start),
            cls.end_s if end is None else _parse_hour(end),
        )
        if period.start_s >= period.end_s:
            raise UserError(f"the time from {start} to {end} is empty; the second one is not in it")
        return period

    @classmethod
    def parse_month(cls, month: str) -> "Period":
        """Parse a month as 2026-11.

        Raises:
            UserError: it is none.
        """
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        except ValueError:
            raise UserError(f"{month!r} is no month; write it as 2026-11") from None
        return cls(int(first.timestamp()), int((first + timedelta(days=32)).replace(day=1).timestamp()))


def _parse_hour(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text!r} is no date; write 2026-11-01, or an hour as 2026-11-01T13") from None
    when_s = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if when_s % HOUR_S:
        raise UserError(f"{text!r} is within an hour; usage is added up by whole hours")
    return int(when_s)


def format_hour(time_s: int) -> str:
    """An hour's beginning, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:00Z")


class UsageReport:
    """Reads the sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_usage(self, by: By, period: Period, tenants: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
        """List what was used.

        Args:
            by: what the sums are of.
            period: when.
            tenants: whose usage; None for everybody's.
        """
        time = {"day": SUMS.c.hour_s - SUMS.c.hour_s % DAY_S, "hour": SUMS.c.hour_s}
        columns = [time[name].label(name) if name in time else SUMS.c[name] for name in _COLUMNS[by]]
        query = select(*columns, *(func.sum(SUMS.c[name]).label(name) for name in COUNTERS))
        query = query.where(SUMS.c.kind != Kind.INTERNAL.value)
        query = query.where(SUMS.c.hour_s >= period.start_s, SUMS.c.hour_s < period.end_s)
        if tenants is not None:
            query = query.where(SUMS.c.tenant.in_(tenants))
        with self._engine.connect() as connection:
            rows = connection.execute(query.group_by(*columns).order_by(*columns)).mappings().all()
        return [_describe(dict(row)) for row in rows]

    def list_tenants(self) -> list[str]:
        """List the tenants that have used anything."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(SUMS.c.tenant).distinct().order_by(SUMS.c.tenant)).scalars())

    def list_sums(self, period: Period, tenants: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
        """List each sum as it is kept: of an hour, key, model, version and kind."""
        query = select(SUMS).where(SUMS.c.hour_s >= period.start_s, SUMS.c.hour_s < period.end_s)
        query = query.where(SUMS.c.kind != Kind.INTERNAL.value)
        if tenants is not None:
            query = query.where(SUMS.c.tenant.in_(tenants))
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query.order_by(*SUMS.primary_key)).mappings()]

    def summarize_capacity(self, period: Period) -> dict[str, Any]:
        """Say what the cluster's core-hours went to: passes, replicas' idle time, training, others, nothing."""
        query = select(CAPACITY.c.kind, CAPACITY.c.name, CAPACITY.c.cpu_ms, CAPACITY.c.used_cpu_ms, CAPACITY.c.gpu_ms)
        query = query.where(CAPACITY.c.hour_s >= period.start_s, CAPACITY.c.hour_s < period.end_s)
        cpu_ms: dict[str, int] = defaultdict(int)
        gpu_ms: dict[str, int] = defaultdict(int)
        used_ms: dict[str, int] = defaultdict(int)
        replicas: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                cpu_ms[row.kind] += row.cpu_ms
                gpu_ms[row.kind] += row.gpu_ms
                used_ms[row.kind] += row.used_cpu_ms
                if row.kind == REPLICA:
                    replicas[row.name][0] += row.cpu_ms
                    replicas[row.name][1] += row.used_cpu_ms
        # Beyond its reserved cores: passes in a replica that shares a core's rest with others.
        used = min(used_ms[REPLICA], cpu_ms[REPLICA])
        free = max(0, cpu_ms[CLUSTER] - cpu_ms[REPLICA] - cpu_ms[TRAINING] - cpu_ms[OTHER])
        return {
            "cluster_core_hours": _to_hours(cpu_ms[CLUSTER]),
            "used_core_hours": _to_hours(used),
            "idle_core_hours": _to_hours(cpu_ms[REPLICA] - used),
            "training_core_hours": _to_hours(cpu_ms[TRAINING]),
            "other_core_hours": _to_hours(cpu_ms[OTHER]),
            "free_core_hours": _to_hours(free),
            "cluster_gpu_hours": _to_hours(gpu_ms[CLUSTER]),
            "replica_gpu_hours": _to_hours(gpu_ms[REPLICA]),
            "training_gpu_hours": _to_hours(gpu_ms[TRAINING]),
            "models": [
                {
                    "model": name,
                    "core_hours": _to_hours(held),
                    "used_core_hours": _to_hours(min(used, held)),
                    "idle_core_hours": _to_hours(max(0, held - used)),
                }
                for name, (held, used) in sorted(replicas.items())
            ],
        }


def _to_hours(milliseconds: int) -> float:
    return milliseconds / 1000 / HOUR_S


def _describe(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a report as JSON."""
    if "day" in row:
        row["day"] = format_hour(int(row["day"]))[:10]
    if "hour" in row:
        row["hour"] = format_hour(int(row["hour"]))
    counters = {name: int(row.pop(name)) for name in COUNTERS}
    compute_s = counters.pop("compute_ns") / 1e9
    # No counter tells a process' share of a machine's energy.
    return {**row, **counters, "compute_s": compute_s, "joules": None, "co2_g": None}
