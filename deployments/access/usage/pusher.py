"""Pusher: sends the records of a replica's outbox to the collector, and those of dead processes on its node.

Request walk: outbox.py -> [pusher.py] -> collector.py
Whatever happens on the way, the collector says which record it wants next.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from deployments.access.usage.outbox import Outbox, Segment, UsageBatch, open_dead_segments
from deployments.access.usage.request_usage import NO_SINK, UsageSink

# With the collector's transaction, a record is in the database within a second.
PUSH_INTERVAL_S = 0.4
# A response is sent at the end of the loop's turn, a handle's reply a little later; what is pushed has been sent.
SEND_DELAY_S = 0.1
SWEEP_INTERVAL_S = 3.0
CLOSE_TIMEOUT_S = 3.0
MAX_BATCH = 16_384
FOLDER = Path("run") / "usage"
"""Below SHOAL_HOME: the outboxes of this node's processes."""

logger = logging.getLogger("ray.serve")

Push = Callable[[UsageBatch], Awaitable[int]]
"""Has a batch counted; returns the number of the first record that is not yet."""


class Pusher:
    """Keeps one outbox empty, and sweeps the node's dead ones."""

    def __init__(self, push: Push, folder: Path, outbox: Outbox | None = None) -> None:
        """Make a pusher; it works after `start`.

        Args:
            push: the collector's.
            folder: of the node's outboxes.
            outbox: of this process; None where it answers no requests.
        """
        self._push, self._folder, self.outbox = push, folder, outbox
        self._position = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def sink(self) -> UsageSink:
        """What takes the usage of this process' requests."""
        return self.outbox or NO_SINK

    def start(self) -> None:
        """Begin, in this loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(self._push_new, PUSH_INTERVAL_S))] if self.outbox else []
        self._tasks.append(loop.create_task(self._run(self.sweep, SWEEP_INTERVAL_S)))

    async def stop(self) -> None:
        """Push what is left; what the collector does not take stays for who sweeps next."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.outbox:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._push_new()
            self.outbox.close(self._position)

    async def _run(self, step: Callable[[], Awaitable[None]], interval_s: float) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(interval_s)
            try:
                await step()
                is_failing = False
            except Exception as error:
                if not is_failing:
                    logger.warning("usage is not counted now, and kept meanwhile: %s", error)
                is_failing = True

    async def _push_new(self) -> None:
        outbox = self.outbox
        assert outbox is not None
        outbox.beat()
        end = outbox.end
        await asyncio.sleep(SEND_DELAY_S)
        while True:
            # Also without a record: how long the process has held its cores is metered, too.
            self._position = await self._push(outbox.read(self._position, end, MAX_BATCH))
            outbox.acknowledge(self._position)
            if self._position >= end:
                return

    async def sweep(self) -> None:
        """Push what processes of this machine left that have ended."""
        segments = await asyncio.to_thread(open_dead_segments, self._folder)
        try:
            while segments:
                await self._push_dead(segments[0])
                segments.pop(0).close(delete=True)
        finally:
            for segment in segments:
                segment.close(delete=False)

    async def _push_dead(self, segment: Segment) -> None:
        position = segment.first
        while True:
            end = min(segment.end, position + MAX_BATCH)
            # Another one may sweep at the same time: then the position is further than what was sent.
            position = await self._push(segment.read(position, end, is_dead=True))
            if position >= segment.end:
                return
