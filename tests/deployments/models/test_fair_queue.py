"""Fair shares of passes between tenants, on a simulated clock; one tenant alone has the order of arrival."""

import heapq
import random
from collections import Counter

import numpy as np
import pytest

from deployments.access.caller import CURRENT_CALLER, Caller
from deployments.access.limits.weights import set_weights
from deployments.models.chunk_queue import ChunkQueue
from deployments.models.chunks import Chunk, PendingRequest
from deployments.server.scheduling import Scheduling

PASS_ROWS, PASS_S, ROW_S = 16, 1e-3, 0.1e-3
FULL_PASS_S = PASS_S + PASS_ROWS * ROW_S
CAPACITY = PASS_ROWS / FULL_PASS_S
# What the replica's limit of requests leaves one of two tenants.
PLACES = 128


@pytest.fixture(autouse=True)
def equal_weights() -> None:
    set_weights({})


def add(queue: ChunkQueue, tenant: str, rows: int = 1, priority: int = 0, *, first: bool = False) -> PendingRequest:
    token = CURRENT_CALLER.set(Caller(f"{tenant}/key"))
    try:
        request = PendingRequest(rows, lambda result: None, Scheduling(priority=priority))
    finally:
        CURRENT_CALLER.reset(token)
    queue.extend([Chunk(request, np.zeros((rows, 1), np.float32), slice(0, rows))], request, first=first)
    return request


def take(queue: ChunkQueue, rows: int = PASS_ROWS) -> list[PendingRequest]:
    return [chunk.request for chunk in queue.take(rows, 0.0).chunks]


def test_one_tenant_has_the_order_of_arrival() -> None:
    queue = ChunkQueue(has_time_axis=False)
    requests = [add(queue, "a") for _ in range(20)]

    assert take(queue) == requests[:16]
    assert take(queue) == requests[16:]
    assert queue.rows == 0


def test_a_tenant_that_comes_later_does_not_wait_behind_all_of_another() -> None:
    queue = ChunkQueue(has_time_axis=False)
    for _ in range(100):
        add(queue, "a")
    take(queue)

    late = add(queue, "b")

    assert late in take(queue)


def test_each_tenant_gets_passes_by_its_weight_and_none_is_left_out() -> None:
    set_weights({"b": 3.0})
    queue = ChunkQueue(has_time_axis=False)
    for _ in range(200):
        add(queue, "a")
        add(queue, "b")

    taken = Counter(request.tenant for _ in range(10) for request in take(queue))

    assert taken["b"] == pytest.approx(120, abs=2)
    assert sum(taken.values()) == 160


def test_rows_count_and_not_requests() -> None:
    queue = ChunkQueue(has_time_axis=False)
    for _ in range(40):
        add(queue, "a", rows=8)
    for _ in range(320):
        add(queue, "b")

    taken: Counter[str] = Counter()
    for _ in range(20):
        for chunk in queue.take(PASS_ROWS, 0.0).chunks:
            taken[chunk.request.tenant] += len(chunk.x)

    assert taken["a"] == pytest.approx(160, abs=8)


def test_who_was_idle_has_not_saved_up_and_the_health_check_is_before_all() -> None:
    queue = ChunkQueue(has_time_axis=False)
    for _ in range(300):
        add(queue, "a")
    add(queue, "b")
    for _ in range(10):
        take(queue)
    for _ in range(100):
        add(queue, "b")
    check = add(queue, "", first=True)

    first = take(queue)

    assert first[0] is check
    assert Counter(request.tenant for request in first[1:])["a"] == pytest.approx(7.5, abs=1)


def test_only_rows_that_go_first_are_waited_for() -> None:
    queue = ChunkQueue(has_time_axis=False)
    for _ in range(300):
        add(queue, "a")
    for _ in range(10):
        add(queue, "b")

    assert queue.count_interactive_rows_ahead("a", 1) == 300 + 10
    assert queue.count_interactive_rows_ahead("b", 1) == 10 + 11
    assert queue.count_interactive_rows_ahead("c", 1) == 2


def simulate(load_a: float, load_b: float, seconds: float = 4.0) -> list[float]:
    """Latencies of tenant b, of Poisson arrivals at shares of the capacity; a has PLACES requests inside at most."""
    generator, queue = random.Random(0), ChunkQueue(has_time_axis=False)
    arrivals = [(generator.expovariate(load_a * CAPACITY), "a"), (generator.expovariate(load_b * CAPACITY), "b")]
    heapq.heapify(arrivals)
    loads = {"a": load_a, "b": load_b}
    arrived_s: dict[PendingRequest, float] = {}
    inside: Counter[str] = Counter()
    latencies: list[float] = []
    now_s = 0.0
    while now_s < seconds:
        while arrivals[0][0] <= now_s or not queue.rows:
            when_s, tenant = heapq.heappop(arrivals)
            now_s = max(now_s, when_s)
            if inside[tenant] < PLACES:
                inside[tenant] += 1
                arrived_s[add(queue, tenant)] = when_s
            heapq.heappush(arrivals, (when_s + generator.expovariate(loads[tenant] * CAPACITY), tenant))
        batch = queue.take(PASS_ROWS, 0.0)
        now_s += PASS_S + batch.rows * ROW_S
        for chunk in batch.chunks:
            tenant = chunk.request.tenant
            inside[tenant] -= 1
            if tenant == "b":
                latencies.append(now_s - arrived_s.pop(chunk.request))
    return latencies


def test_a_tenant_at_a_hundred_times_its_load_does_not_move_anothers_p99() -> None:
    # The replica is busy with both: a's load alone would take what b leaves, and a little more.
    before, after = (np.percentile(simulate(load_a, 0.3), 99) for load_a in (0.75, 75.0))

    assert after <= 1.2 * before
    assert after < 2.5 * FULL_PASS_S
