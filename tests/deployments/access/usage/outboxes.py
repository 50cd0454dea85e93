"""Outboxes for tests: of processes that live in this one, and of ones that have ended."""

import secrets
import time
from pathlib import Path

from deployments.access.caller import Caller
from deployments.access.usage.call_event import CallEvent, Kind
from deployments.access.usage.outbox import Outbox, OutboxSource
from deployments.access.usage.request_usage import NO_SINK, RequestUsage
from training.registry.process_identity import ProcessIdentity

ALICE, BOB = Caller("acme/alice", "key-alice"), Caller("globex/bob", "key-bob")
MAX_BYTES = 8 * 1024**2


def make_usage(
    caller: Caller = ALICE,
    event_id: bytes = b"",
    kind: Kind = Kind.REQUEST,
    request_id: str = "",
    compute_s: float = 0.0,
    **counters: int,
) -> RequestUsage:
    usage = RequestUsage(NO_SINK, caller, CallEvent(event_id or secrets.token_bytes(16), kind), request_id.encode())
    usage.compute_s = compute_s
    for name, value in counters.items():
        setattr(usage, name, value)
    return usage


def make_source(model: str = "flowers", *, is_dead: bool = False, cpus: float = 1.0) -> OutboxSource:
    process = ProcessIdentity.current()
    if is_dead:
        process = ProcessIdentity(process.host, process.pid, "another life")
    return OutboxSource(model, "3", cpus, 0.0, started_s=time.time(), process=str(process))


def make_outbox(folder: Path, model: str = "flowers", *, is_dead: bool = False, keeps_ids: bool = False) -> Outbox:
    return Outbox(folder, make_source(model, is_dead=is_dead), MAX_BYTES, keeps_ids=keeps_ids)
