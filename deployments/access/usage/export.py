"""Export: sums of usage as events for billing systems, CloudEvents as OpenMeter takes them, or Lago's.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, https://docs.getlago.com/api-reference/events
Usage walk: cluster.cli.usage -> [export.py]
Each event has the id of what it sums up, so that one that is sent twice is counted once. An hour goes out once it is
over and every outbox of it has been pushed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from deployments.access.usage.call_event import Kind
from deployments.state.usage_tables import COUNTERS, DIMENSIONS, HOUR_S

SPEC_VERSION, TYPE, SOURCE = "1.0", "shoal.usage", "shoal"
# Outboxes of processes that ended at an hour's end are pushed within seconds.
SETTLED_S = 300


def list_settled(sums: Iterable[Mapping[str, Any]], now_s: float) -> Iterator[Mapping[str, Any]]:
    """Those of hours that are over."""
    return (row for row in sums if row["hour_s"] + HOUR_S + SETTLED_S <= now_s)


def build_cloud_events(sums: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """An event for each sum; its subject is the tenant."""
    for row in sums:
        data = {name: row[name] for name in ("key", "key_id", "model", "version")}
        data["kind"] = Kind(row["kind"]).name.lower()
        data |= {name: int(row[name]) for name in COUNTERS}
        yield {
            "specversion": SPEC_VERSION,
            "id": _identify(row),
            "source": SOURCE,
            "type": TYPE,
            "subject": row["tenant"],
            "time": datetime.fromtimestamp(row["hour_s"], UTC).isoformat(),
            "datacontenttype": "application/json",
            "data": data,
        }


def build_lago_events(sums: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """An event for each counter of each sum: its code is that of a metric which adds up the property `value`."""
    for row in sums:
        for counter in COUNTERS:
            if value := int(row[counter]):
                yield {
                    "transaction_id": f"{_identify(row)}-{counter}",
                    "external_subscription_id": row["tenant"],
                    "code": f"shoal_{counter}",
                    "timestamp": row["hour_s"],
                    "properties": {
                        "value": value,
                        "model": row["model"],
                        "version": row["version"],
                        "key": row["key"],
                    },
                }


FORMATS = {"cloudevents": build_cloud_events, "lago": build_lago_events}
"""Of `shoal usage export`."""


def _identify(row: Mapping[str, Any]) -> str:
    text = "\0".join(str(row[name]) for name in DIMENSIONS)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
