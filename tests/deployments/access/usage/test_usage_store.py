"""The store of usage, on SQLite and PostgreSQL: sums are exact, however batches come and whatever dies."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from deployments.access.usage.call_event import Kind
from deployments.access.usage.outbox import Outbox, UsageBatch
from deployments.state import usage_store
from deployments.state.usage_store import UsageStore
from deployments.state.usage_tables import CAPACITY, COUNTERS, METADATA, SUMS
from tests.deployments.access.usage.outboxes import ALICE, BOB, make_outbox, make_usage
from tests.postgres import run_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with run_postgres() as folder:
        yield f"postgresql+psycopg://shoal@/postgres?host={folder}"


@pytest.fixture(params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/platform.db"
    uri: str = request.getfixturevalue("postgres")
    clear(UsageStore(uri))
    return uri


def clear(store: UsageStore) -> None:
    with store.engine.begin() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(text(f"DELETE FROM {table.name}"))


def read_all(outbox: Outbox, position: int = 0, *, is_dead: bool = False) -> UsageBatch:
    segment = outbox._last
    return segment.read(position, segment.end, is_dead=is_dead)


def sum_up(store: UsageStore, **where: Any) -> dict[str, int]:
    query = select(*(SUMS.c[name] for name in COUNTERS))
    for name, value in where.items():
        query = query.where(SUMS.c[name] == value)
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {name: sum(int(row[index]) for row in rows) for index, name in enumerate(COUNTERS)}


def test_answers_are_added_up_by_key_model_and_kind(uri: str, tmp_path: Path) -> None:
    outbox, store = make_outbox(tmp_path), UsageStore(uri)
    outbox.append(make_usage(ALICE, rows=2, tokens_in=7, bytes_in=100, bytes_out=50, compute_s=0.1), 200)
    outbox.append(make_usage(ALICE, rows=3, compute_s=0.2), 200)
    outbox.append(make_usage(BOB, rows=5), 200)
    outbox.append(make_usage(BOB, rows=9), 429)
    outbox.append(make_usage(BOB, rows=9), 500)
    outbox.append(make_usage(ALICE, kind=Kind.NODE, rows=4, compute_s=0.5), 200)

    assert store.add(read_all(outbox)) == 6

    alice = sum_up(store, tenant="acme", key="alice", key_id="key-alice", model="flowers", version="3", kind=0)
    assert alice == dict.fromkeys(COUNTERS, 0) | {
        "requests": 2,
        "rows": 5,
        "tokens_in": 7,
        "bytes_in": 100,
        "bytes_out": 50,
        "compute_ns": 300_000_000,
    }
    bob = sum_up(store, tenant="globex")
    assert (bob["requests"], bob["rows"], bob["refused"], bob["failed"]) == (1, 5, 1, 1)
    nodes = sum_up(store, kind=int(Kind.NODE))
    assert (nodes["requests"], nodes["rows"], nodes["compute_ns"]) == (0, 4, 500_000_000)


def test_a_refusal_does_not_stand_for_the_answer_of_a_second_attempt(uri: str, tmp_path: Path) -> None:
    store, event_id = UsageStore(uri), secrets.token_bytes(16)
    first, second = make_outbox(tmp_path), make_outbox(tmp_path)
    first.append(make_usage(event_id=event_id), 503)
    second.append(make_usage(event_id=event_id), 200)

    for outbox in (first, second):
        store.add(read_all(outbox))

    sums = sum_up(store)
    assert (sums["requests"], sums["failed"]) == (1, 1)


def test_an_outbox_found_long_after_its_process_died_is_compared_with_what_was_counted_since(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = UsageStore(uri)
    shared = [secrets.token_bytes(16) for _ in range(3)]
    dead, other = make_outbox(tmp_path), make_outbox(tmp_path)
    for event_id in shared:
        dead.append(make_usage(event_id=event_id), 200)
        other.append(make_usage(event_id=event_id), 200)
    dead.append(make_usage(), 200)
    store.add(read_all(other))
    now_s = time.time()

    monkeypatch.setattr(time, "time", lambda: now_s + usage_store.RECENT_S + 1)
    UsageStore(uri).add(read_all(dead, is_dead=True))

    assert sum_up(store)["requests"] == 4


def test_a_requests_trail_is_kept_only_where_the_settings_say_so(uri: str, tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path, keeps_ids=True)
    outbox.append(make_usage(ALICE, request_id="r-1"), 200)
    outbox.append(make_usage(BOB, request_id="r-1"), 429)
    without, traced = UsageStore(uri), UsageStore(uri, trace_days=1)

    without.add(read_all(outbox))
    assert traced.find_requests("r-1") == []
    clear(traced)
    traced._recent = None
    traced.add(read_all(outbox))

    rows = traced.find_requests("r-1")
    assert [(row["caller"], row["model"], row["version"], row["status"]) for row in rows] == [
        ("acme/alice", "flowers", "3", 200),
        ("globex/bob", "flowers", "3", 429),
    ]


def test_what_a_replica_held_is_metered_until_its_last_beat_once(uri: str, tmp_path: Path) -> None:
    store, outbox = UsageStore(uri), make_outbox(tmp_path)
    started_s = outbox.source.started_s
    outbox.append(make_usage(compute_s=0.5), 200)
    for seconds in (10.0, 10.0, 25.0, 3.0):
        outbox._last.beat(started_s + seconds)
        store.add(read_all(outbox))

    with store.engine.connect() as connection:
        rows = connection.execute(select(CAPACITY)).all()

    assert abs(sum(row.cpu_ms for row in rows) - 25_000) <= 2 * len(rows)
    assert sum(row.used_cpu_ms for row in rows) == 500


class Crash(Exception):
    """The collector's process ends."""


def make_crashing(store: UsageStore) -> None:
    """Make the next batch end as in a process that is killed before its commit."""
    upsert = store._upsert

    def crash(*arguments: Any) -> None:
        upsert(*arguments)
        raise Crash

    store._upsert = crash  # type: ignore[method-assign]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("retry"), st.integers(0, 2), st.integers(0, 50)),
        st.tuples(st.just("push"), st.integers(0, 2), st.sampled_from(["", "lost answer", "killed before", "stale"])),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("die"), st.integers(0, 2), st.just(0)),
    ),
    max_size=40,
)


class Cluster:
    """Three replicas and a collector, in this process."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self.store = UsageStore(uri)
        self.outboxes = [make_outbox(folder) for _ in range(3)]
        self.positions = [0, 0, 0]
        self.dead: list[Outbox] = []
        self.expected: dict[bytes, int] = {}

    def answer(self, replica: int, rows: int) -> None:
        event_id = secrets.token_bytes(16)
        self.expected[event_id] = rows
        self.outboxes[replica].append(make_usage(event_id=event_id, rows=rows), 200)

    def retry(self, replica: int, which: int) -> None:
        """Another replica has answered a request, too: HAProxy has sent it again."""
        if self.expected:
            event_id = list(self.expected)[which % len(self.expected)]
            self.outboxes[replica].append(make_usage(event_id=event_id, rows=self.expected[event_id]), 200)

    def push(self, replica: int, how: str) -> None:
        outbox, position = self.outboxes[replica], self.positions[replica]
        batch = read_all(outbox, 0 if how == "stale" else position)
        if how == "killed before":
            make_crashing(self.store)
            try:
                self.store.add(batch)
            except Crash:
                self.store = UsageStore(self.uri)
            return
        acknowledged = self.store.add(batch)
        if how != "lost answer":
            self.positions[replica] = acknowledged

    def restart(self, *_: int) -> None:
        self.store = UsageStore(self.uri)

    def die(self, replica: int, _: int) -> None:
        self.dead.append(self.outboxes[replica])
        self.outboxes[replica] = make_outbox(self.folder)
        self.positions[replica] = 0

    def settle(self) -> None:
        for outbox in self.dead:
            self.store.add(read_all(outbox, is_dead=True))
        for replica in range(3):
            self.push(replica, "")
            self.push(replica, "stale")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_order_of_answers_pushes_kills_and_restarts_counts_each_event_once(
    uri: str, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, Any]]
) -> None:
    clear(UsageStore(uri))
    cluster = Cluster(uri, tmp_path_factory.mktemp("outboxes"))

    for step, first, second in steps:
        getattr(cluster, step)(first, second)
    cluster.settle()

    sums = sum_up(cluster.store)
    assert (sums["requests"], sums["rows"]) == (len(cluster.expected), sum(cluster.expected.values()))
