"""Queue of a batcher: the rows that wait, and which of them the next pass takes.

Request walk: batching.py -> [chunk_queue.py] -> fair_queue.py
Interactive rows go first and batch rows fill what is left; of either, each tenant gets its share. What nobody waits for
any more is dropped here, before it is computed: its caller has left, or its deadline comes before the end of the pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from deployments.models.chunks import Chunk, PendingRequest
from deployments.models.fair_queue import FairQueue

# Maximum share of padding in a pass; a row that would bring more waits for rows of its length.
MAX_PADDING_SHARE = 0.2

# Of so many passes, one takes batch rows first, so that they wait, but not for ever.
MAX_PASSES_WITHOUT_BATCH = 8


@dataclass(slots=True)
class Batch:
    """The chunks of one pass.

    Attributes:
        chunks: of it.
        rows: of all chunks.
        time_steps: of all rows, without padding; 0 where they have no time axis.
        longest: time steps of the longest row.
        late: requests that were dropped, since their deadlines come before the end of this pass; None without any.
    """

    chunks: list[Chunk] = field(default_factory=list)
    rows: int = 0
    time_steps: int = 0
    longest: int = 0
    late: list[PendingRequest] | None = None


class ChunkQueue:
    """Chunks that wait for a pass. Whoever uses it holds the batcher's lock.

    Attributes:
        rows: that wait.
        batch_rows: of these, those of batch priority.
        late_rows: that were dropped since their deadlines came too early, in total.
        abandoned_rows: that were dropped since their callers had left, in total.
    """

    def __init__(self, has_time_axis: bool) -> None:
        self._has_time_axis = has_time_axis
        self._interactive, self._batch = FairQueue(), FairQueue()
        self._passes_without_batch = 0
        self.rows = self.batch_rows = self.late_rows = self.abandoned_rows = 0

    def extend(self, chunks: Iterable[Chunk], request: PendingRequest, *, first: bool = False) -> None:
        """Append the chunks of a request, or put them before all others."""
        queue = self._batch if request.priority else self._interactive
        put = queue.put_first if first else queue.append
        for chunk in chunks:
            put(chunk)
        self.rows += request.rows
        if request.priority:
            self.batch_rows += request.rows

    def count_interactive_rows_ahead(self, tenant: str, rows: int) -> int:
        """Count the interactive rows that go before the last of a request's of a tenant."""
        return self._interactive.count_rows_ahead(tenant, rows, self.rows - self.batch_rows)

    def take(self, pass_rows: int, end_s: float) -> Batch:
        """Take the chunks of the next pass.

        Args:
            pass_rows: of a full pass.
            end_s: when it will have ended.
        """
        batch = Batch()
        if not self._batch:
            self._take_from(self._interactive, batch, pass_rows, end_s)
            return batch
        is_turn = self._passes_without_batch >= MAX_PASSES_WITHOUT_BATCH - 1
        self._passes_without_batch += 1
        for queue in (self._batch, self._interactive) if is_turn else (self._interactive, self._batch):
            rows = batch.rows
            self._take_from(queue, batch, pass_rows, end_s)
            if queue is self._batch and batch.rows > rows:
                self._passes_without_batch = 0
        return batch

    def _take_from(self, queue: FairQueue, batch: Batch, pass_rows: int, end_s: float) -> None:
        """Take the next chunk, and later ones that fit: into the pass, and beside rows of its length."""
        skipped: list[Chunk] = []
        while queue and batch.rows < pass_rows:
            chunk = queue.pop()
            request = chunk.request
            if request.is_done:
                # Its caller has left, its deadline came while it waited, or another chunk of it failed.
                if request.is_abandoned:
                    self.abandoned_rows += len(chunk.x)
                elif request.deadline_s < end_s:
                    self.late_rows += len(chunk.x)
                self._count_out(queue, chunk)
                continue
            if request.deadline_s < end_s:
                self.late_rows += len(chunk.x)
                batch.late = [*(batch.late or ()), request]
                self._count_out(queue, chunk)
                continue
            rest = None
            if len(chunk.x) > pass_rows - batch.rows:
                chunk, rest = chunk.split(pass_rows - batch.rows)
            if self._has_time_axis:
                longest = max(batch.longest, chunk.x.shape[1])
                padded = (batch.rows + len(chunk.x)) * longest
                if batch.chunks and exceeds_padding_share(batch.time_steps + chunk.time_steps, padded):
                    skipped += [chunk] if rest is None else [chunk, rest]
                    continue
                batch.time_steps, batch.longest = batch.time_steps + chunk.time_steps, longest
            batch.rows += len(chunk.x)
            batch.chunks.append(chunk)
            queue.count(chunk)
            if rest is not None:
                # Behind later chunks: a large request does not hold up small ones.
                queue.append(rest)
            self._count_out(queue, chunk)
        for chunk in reversed(skipped):
            queue.put_back(chunk)

    def _count_out(self, queue: FairQueue, chunk: Chunk) -> None:
        self.rows -= len(chunk.x)
        if queue is self._batch:
            self.batch_rows -= len(chunk.x)


def exceeds_padding_share(time_steps: int, padded: int) -> bool:
    """Whether so many time steps are too few in a padded pass."""
    return time_steps < (1 - MAX_PADDING_SHARE) * padded
