"""Collector: a Ray actor on the head that writes what replicas have answered into the database.

Request walk: pusher.py -> [collector.py] -> deployments.state.usage_store
It keeps nothing of its own: where it dies, Ray starts it again, and replicas push from where the database is. A thread
of its own does the work: replicas' pushes wait for the database, and nothing else does.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from deployments.access.usage.outbox import OutboxSource, UsageBatch
from deployments.observability.json_logs import configure_logging
from deployments.settings import ServingSettings

NAME = "usage-collector"
NAMESPACE = "shoal"
MAX_CALLS = 10_000
PUSH_TIMEOUT_S = 30.0
# A replica pushes more often; one that does not has ended.
LEASE_S = 1.5
logger = logging.getLogger(__name__)


class Collector:
    """Counts what replicas push."""

    def __init__(self) -> None:
        # Here, not above: replicas import this file, and the databases would take a tenth of their cold start.
        from deployments.access.usage.capacity import CapacityMeter
        from deployments.state.usage_store import UsageStore

        settings = ServingSettings()
        configure_logging(settings.log_format)
        self._settings, self._store_class = settings, UsageStore
        self._store: UsageStore | None = None
        self._thread = ThreadPoolExecutor(1, "usage")
        self._capacity = CapacityMeter()
        # Of replicas that live, and when each pushed last.
        self._replicas: dict[str, tuple[OutboxSource, float]] = {}
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def push(self, batch: UsageBatch) -> int:
        """Count a batch; returns the number of the first record of its outbox that is not counted yet."""
        if not batch.is_dead:
            self._replicas[batch.source.id] = batch.source, time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._add, batch)

    def _open(self) -> Any:
        if self._store is None:
            # Not as it starts: where the database is away, the next push tries again.
            self._store = self._store_class(self._settings.platform, self._settings.usage.trace_days)
        return self._store

    def _add(self, batch: UsageBatch) -> int:
        position: int = self._open().add(batch)
        return position

    def _add_capacity(self, rows: list[dict[str, Any]]) -> None:
        self._open().add_capacity(rows)

    async def _run(self) -> None:
        """Meter what the cluster has, and who holds it."""
        while True:
            await asyncio.sleep(self._capacity.interval_s)
            try:
                now_s = time.monotonic()
                self._replicas = {id_: each for id_, each in self._replicas.items() if now_s - each[1] < LEASE_S}
                await asyncio.to_thread(self._capacity.measure, [source for source, _ in self._replicas.values()])
                rows = self._capacity.take()
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._add_capacity, rows)
                except Exception:
                    self._capacity.put_back(rows)
                    raise
            except Exception as error:
                logger.warning("the cluster's capacity is not metered now: %s", error)


async def push_to_collector(batch: UsageBatch) -> int:
    """Push a batch to the cluster's collector."""
    async with asyncio.timeout(PUSH_TIMEOUT_S):
        position: int = await get_collector().push.remote(batch)
    return position


def get_collector() -> Any:
    """The handle of the cluster's collector, which the first caller starts."""
    # On the head: there the database is, where it is a file.
    actor = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1)(Collector)
    return actor.options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_concurrency=MAX_CALLS
    ).remote()
