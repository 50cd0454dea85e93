"""The ledger as a Ray actor on the head, beside the database; and a replica's accounts with it.

Request walk: accounts.py -> [ledger_actor.py] -> ledger.py
It keeps nothing that the database does not have, rates and places aside: where it dies, Ray starts it again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import ray

from deployments.access.limits.accounts import Accounts
from deployments.access.limits.leasing import Lease, LeaseRequest, Policies, name_key, name_tenant
from deployments.observability.json_logs import configure_logging
from deployments.settings import ServingSettings

NAME, NAMESPACE = "limit-ledger", "shoal"
# Limits are read so often; with what it takes to tell the replicas they are in force within a second.
READ_INTERVAL_S = 0.4
# A replica asks again after so long without a change.
WATCH_S = 5.0
CLEAN_INTERVAL_S = 6 * 3600.0
# Each replica always has a call inside, and another one while it exchanges.
MAX_CALLS = 10_000
logger = logging.getLogger(__name__)


class LedgerActor:
    """One ledger for a cluster."""

    def __init__(self) -> None:
        # Here, not above: replicas import this file, and the databases would take a tenth of their cold start.
        from deployments.access.api_keys import read_pepper
        from deployments.access.limits.ledger import Ledger
        from deployments.state.key_store import KeyStore
        from deployments.state.limit_store import LimitStore
        from deployments.state.tenant_store import TenantStore

        settings = ServingSettings()
        configure_logging(settings.log_format)
        self._keys = KeyStore(settings.platform, read_pepper(settings.home))
        self._tenants, self._store = TenantStore(settings.platform), LimitStore(settings.platform)
        self._ledger = Ledger(self._store)
        # One after the other, away from the loop that answers whoever watches.
        self._thread = ThreadPoolExecutor(1, "ledger")
        # Higher than in any earlier life of this actor.
        self._policies = Policies(time.time_ns())
        self._changed = asyncio.Condition()
        self._take(self._read())
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def exchange(self, holder: str, requests: Sequence[LeaseRequest]) -> list[Lease]:
        """Settle and lend; see Ledger.exchange."""
        if not self._ledger.needs_database(requests):
            return self._ledger.exchange(holder, requests)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.exchange, holder, requests)

    async def watch(self, revision: int) -> Policies:
        """Return the limits once they are others than those of a revision, or after WATCH_S."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._changed.wait_for(lambda: self._policies.revision != revision)
        return self._policies

    async def _run(self) -> None:
        cleaned_s = float("-inf")
        while True:
            await asyncio.sleep(READ_INTERVAL_S)
            try:
                policies = await asyncio.to_thread(self._read)
                if policies != self._policies:
                    async with self._changed:
                        self._take(policies)
                        self._changed.notify_all()
                if time.monotonic() - cleaned_s > CLEAN_INTERVAL_S:
                    cleaned_s = time.monotonic()
                    await asyncio.to_thread(self._store.delete_old)
            except Exception:
                # The database does not answer: what was read before stands.
                logger.exception("the limits cannot be read")

    def _read(self) -> Policies:
        limits: dict[str, Mapping[str, str]] = {name_key(each): of for each, of in self._keys.list_limits().items()}
        weights = {}
        for tenant in self._tenants.list_tenants():
            if tenant.limits:
                limits[name_tenant(tenant.name)] = tenant.limits
            if tenant.weight != 1:
                weights[tenant.name] = tenant.weight
        return replace(self._policies, limits=limits, weights=weights)

    def _take(self, policies: Policies) -> None:
        self._policies = replace(policies, revision=policies.revision + 1)
        self._thread.submit(self._ledger.set_policies, self._policies)


def get_ledger() -> Any:
    """The handle of the cluster's ledger, which the first caller starts."""
    # On the head: there the database is, where it is a file.
    actor = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1)(LedgerActor)
    return actor.options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_concurrency=MAX_CALLS
    ).remote()


async def open_accounts(holder: str) -> Accounts:
    """The accounts of a replica; returns once the limits are known.

    Args:
        holder: id of the replica.
    """

    async def exchange(requests: Sequence[LeaseRequest]) -> list[Lease]:
        leases: list[Lease] = await get_ledger().exchange.remote(holder, requests)
        return leases

    async def watch(revision: int) -> Policies:
        policies: Policies = await get_ledger().watch.remote(revision)
        return policies

    accounts = Accounts(exchange, watch)
    await accounts.start()
    return accounts
