"""Fair queue: the rows of several tenants, in an order in which each gets its weighted share of the passes.

Request walk: chunk_queue.py -> [fair_queue.py]
Goyal, Vin and Cheng, "Start-time Fair Queuing", 1996: the tenant that has had the fewest rows for its weight is next. A
tenant alone has the order in which its rows came.
"""

import heapq
import itertools
from collections import deque

from deployments.access.limits.weights import get_weight
from deployments.models.chunks import Chunk

# What tenants were given is forgotten above so many.
MAX_REMEMBERED = 4096


class _Lane:
    """One tenant's chunks."""

    __slots__ = ("chunks", "rows")

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.rows = 0


class FairQueue:
    """Chunks of one priority, by tenant. Falsy where it is empty."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        # Each lane's start: rows that its tenant had, by its weight; the order of lanes decides between equal ones.
        self._starts: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        # Where lanes that are empty now would start again, and where the last chunk started.
        self._finishes: dict[str, float] = {}
        self._start = 0.0
        # Before all others.
        self._first: deque[Chunk] = deque()
        self._size = 0

    def __bool__(self) -> bool:
        return self._size > 0

    def append(self, chunk: Chunk) -> None:
        """Put a chunk behind its tenant's others."""
        lane = self._get_lane(chunk.request.tenant)
        lane.chunks.append(chunk)
        lane.rows += len(chunk.x)
        self._size += 1

    def put_back(self, chunk: Chunk) -> None:
        """Put a chunk before its tenant's others."""
        lane = self._get_lane(chunk.request.tenant)
        lane.chunks.appendleft(chunk)
        lane.rows += len(chunk.x)
        self._size += 1

    def put_first(self, chunk: Chunk) -> None:
        """Put a chunk before all others."""
        self._first.append(chunk)
        self._size += 1

    def pop(self) -> Chunk:
        """Take the next chunk; it counts for its tenant once `count` is told of it."""
        self._size -= 1
        if self._first:
            return self._first.popleft()
        while True:
            start, _, tenant = self._starts[0]
            lane = self._lanes[tenant]
            if lane.chunks:
                break
            # Its last chunk is gone, and other tenants have some.
            heapq.heappop(self._starts)
            del self._lanes[tenant]
            self._remember(tenant, start)
        self._start = start
        chunk = lane.chunks.popleft()
        lane.rows -= len(chunk.x)
        return chunk

    def count(self, chunk: Chunk) -> None:
        """Count the chunk that was taken last for its tenant; one alone competes with nobody."""
        starts = self._starts
        if len(starts) > 1 and starts[0][2] == chunk.request.tenant:
            start, _, tenant = starts[0]
            heapq.heapreplace(starts, (start + len(chunk.x) / get_weight(tenant), next(self._order), tenant))

    def count_rows_ahead(self, tenant: str, rows: int, total: int) -> int:
        """Count the rows that go before the last of a request's: its tenant's, and others' by their weights.

        Args:
            tenant: of the request.
            rows: of the request.
            total: rows in the queue.
        """
        if len(self._lanes) < 2 and (tenant in self._lanes or not self._lanes):
            return total
        own = self._lanes[tenant].rows if tenant in self._lanes else 0
        share = (own + rows) / get_weight(tenant)
        return own + sum(
            min(lane.rows, int(share * get_weight(name))) for name, lane in self._lanes.items() if name != tenant
        )

    def _get_lane(self, tenant: str) -> _Lane:
        lane = self._lanes.get(tenant)
        if lane is None:
            lane = self._lanes[tenant] = _Lane()
            start = max(self._start, self._finishes.pop(tenant, 0.0))
            heapq.heappush(self._starts, (start, next(self._order), tenant))
        return lane

    def _remember(self, tenant: str, start: float) -> None:
        if len(self._finishes) >= MAX_REMEMBERED:
            self._finishes = {name: each for name, each in self._finishes.items() if each > self._start}
        self._finishes[tenant] = start
