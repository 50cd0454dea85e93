"""Tenant store: what tenants may use, and their weights, in the database of the deployments.

Deploy walk: deployments.access.tenants -> [tenant_store.py] -> deployments.access.limits.ledger_actor
"""

import json
import time

from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine, delete, insert, select

from deployments.access.tenants import Tenant
from training.registry.opening import lock_store

_METADATA = MetaData()
_TENANTS = Table(
    "tenants",
    _METADATA,
    Column("name", String(63), primary_key=True),
    Column("limits", Text, nullable=False),
    Column("weight", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
)


class TenantStore:
    """The table of tenants that something was set for, in SQLite or PostgreSQL."""

    def __init__(self, uri: str) -> None:
        """Open the database; creates it if it is a missing SQLite file.

        Args:
            uri: SQLAlchemy's.
        """
        with lock_store(uri, "tables"):
            self._engine = create_engine(uri)
            _METADATA.create_all(self._engine)

    def list_tenants(self) -> list[Tenant]:
        """List the tenants, by name."""
        query = select(_TENANTS.c.name, _TENANTS.c.limits, _TENANTS.c.weight).order_by(_TENANTS.c.name)
        with self._engine.connect() as connection:
            return [Tenant(name, json.loads(limits), weight) for name, limits, weight in connection.execute(query)]

    def get_tenant(self, name: str) -> Tenant:
        """Get a tenant; one that nothing was set for has no limits."""
        return next((each for each in self.list_tenants() if each.name == name), Tenant(name))

    def put_tenant(self, tenant: Tenant) -> None:
        """Write a tenant."""
        values = {
            "name": tenant.name,
            "limits": json.dumps(dict(tenant.limits)),
            "weight": tenant.weight,
            "updated_s": time.time(),
        }
        with self._engine.begin() as connection:
            connection.execute(delete(_TENANTS).where(_TENANTS.c.name == tenant.name))
            connection.execute(insert(_TENANTS).values(values))
