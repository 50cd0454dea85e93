"""Batch sums: the records of a batch added up, by hour, key, model and kind.

Request walk: deployments.state.usage_store -> [batch_sums.py] -> outbox.py
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from deployments.access.usage.call_event import Kind
from deployments.access.usage.outbox import RECORD, REQUEST_ID_BYTES, UsageBatch
from deployments.state.usage_tables import HOUR_S

RECORD_TYPE = np.dtype(
    [
        ("id", "<u8"),
        ("id_rest", "<u8"),
        ("ended_s", "<f8"),
        ("compute_s", "<f8"),
        ("caller", "<u4"),
        ("rows", "<u4"),
        ("tokens_in", "<u4"),
        ("tokens_out", "<u4"),
        ("bytes_in", "<u4"),
        ("bytes_out", "<u4"),
        ("status", "<u2"),
        ("kind", "u1"),
        ("state", "u1"),
    ]
)
"""A record of outbox.py, for numpy."""

assert RECORD_TYPE.itemsize == RECORD.size

_SUMMED = ("rows", "tokens_in", "tokens_out", "bytes_in", "bytes_out")


def decode_records(batch: UsageBatch) -> "np.ndarray[Any, Any]":
    """Decode a batch's records."""
    return np.frombuffer(batch.records, RECORD_TYPE).copy()


def sum_records(batch: UsageBatch, records: "np.ndarray[Any, Any]") -> list[dict[str, Any]]:
    """Add records up.

    Args:
        batch: that they are of.
        records: some of it.
    """
    if not len(records):
        return []
    hours = (records["ended_s"] // HOUR_S).astype(np.int64)
    groups = np.stack([hours, records["caller"].astype(np.int64), records["kind"].astype(np.int64)], axis=1)
    unique, index = np.unique(groups, axis=0, return_inverse=True)
    # Whole nanoseconds: sums of floats would depend on their order.
    compute_ns = np.rint(records["compute_s"] * 1e9).astype(np.int64)
    rows = []
    for number, (hour, caller, kind) in enumerate(unique.tolist()):
        group = index.reshape(-1) == number
        status = records["status"][group]
        is_answered = status < 300
        name, key_id = batch.callers[caller]
        tenant, _, key = name.partition("/")
        answered = records[group][is_answered]
        sums = {field: int(answered[field].sum(dtype=np.int64)) for field in _SUMMED}
        rows.append(
            {
                "hour_s": hour * HOUR_S,
                "tenant": tenant,
                "key": key,
                "key_id": key_id,
                "model": batch.source.model,
                "version": batch.source.version,
                "kind": kind,
                "requests": int(is_answered.sum()) if kind == Kind.REQUEST else 0,
                "refused": int(((status >= 400) & (status < 500)).sum()),
                "failed": int((status >= 500).sum()),
                "compute_ns": int(compute_ns[group][is_answered].sum()),
                **sums,
            }
        )
    return rows


def list_requests(batch: UsageBatch, records: "np.ndarray[Any, Any]", skipped: int) -> Iterator[dict[str, Any]]:
    """Each record as a row of the trail."""
    raw = memoryview(batch.records)[skipped * RECORD.size :]
    ids = batch.request_ids[skipped * REQUEST_ID_BYTES :]
    for number, record in enumerate(records):
        name, key_id = batch.callers[int(record["caller"])]
        request_id = ids[number * REQUEST_ID_BYTES : (number + 1) * REQUEST_ID_BYTES]
        yield {
            "event": bytes(raw[number * RECORD.size : number * RECORD.size + 16]).hex(),
            "request_id": request_id.rstrip(b" \0").decode("utf-8", "replace"),
            "ended_s": float(record["ended_s"]),
            "caller": name,
            "key_id": key_id,
            "model": batch.source.model,
            "version": batch.source.version,
            "status": int(record["status"]),
        }
