"""Batch statistics: what a batcher has done since its start, counted once for each pass and each request in it.

Request walk: batching.py -> [batch_statistics.py]
"""

from collections import Counter
from dataclasses import dataclass, field

from deployments.models.chunk_queue import Batch
from deployments.scaling.report import LatencyHistogram


@dataclass
class BatchStatistics:
    """Totals since the start.

    Attributes:
        passes: forward passes.
        rows: through them.
        time_steps: through them, padding included.
        padding: of those time steps.
        busy_s: seconds of all passes.
        durations: of the passes.
        waits: each request's seconds in the queue until its first pass.
        pass_rows: passes by their rows.
    """

    passes: int = 0
    rows: int = 0
    time_steps: int = 0
    padding: int = 0
    busy_s: float = 0.0
    durations: LatencyHistogram = field(default_factory=LatencyHistogram)
    waits: LatencyHistogram = field(default_factory=LatencyHistogram)
    pass_rows: Counter[int] = field(default_factory=Counter)

    def record_pass(self, batch: Batch, started_s: float, ended_s: float) -> None:
        """Count a pass, its share of each request, and fill in the timing of those that are traced or have limits.

        Args:
            batch: what went through.
            started_s: its start, by time.perf_counter.
            ended_s: its end.
        """
        self.passes += 1
        self.rows += batch.rows
        self.pass_rows[batch.rows] += 1
        self.time_steps += batch.rows * batch.longest
        self.padding += batch.rows * batch.longest - batch.time_steps
        self.busy_s += ended_s - started_s
        self.durations.record(ended_s - started_s)
        row_s = (ended_s - started_s) / batch.rows
        for chunk in batch.chunks:
            request = chunk.request
            share_s = row_s * len(chunk.x)
            if request.usage is not None:
                request.usage.compute_s += share_s
            if not request.is_started:
                request.is_started = True
                self.waits.record(started_s - request.queued_s)
            if request.charge is not None:
                request.charge.compute_s += share_s
            timing = request.timing
            if timing is not None:
                timing.queued_s, timing.ended_s = request.queued_s, ended_s
                timing.started_s = timing.started_s or started_s
                timing.passes += 1
                timing.pass_rows = max(timing.pass_rows, batch.rows)
