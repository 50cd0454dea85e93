"""Messages: what a worker tells the driver while it trains, without waiting for anybody."""

import time
from typing import Any

import ray
from ray.util.queue import Queue


class Messages:
    """One worker's end of the queue; a message that cannot be sent is not worth a run."""

    def __init__(self, queue: Queue, rank: int) -> None:
        self._queue, self._rank = queue, rank

    def put(self, kind: str, **values: float) -> None:
        """Send a message of a kind: `started` or `beat`."""
        message: dict[str, Any] = {"kind": kind, "rank": self._rank, "at_s": time.time(), **values}
        self._queue.actor.put_nowait.remote(message)  # type: ignore[attr-defined]


def inbox() -> Queue:
    """The driver's end; takes no CPU of its own from the workers."""
    return Queue(actor_options={"num_cpus": 0})


def drained(queue: Queue) -> list[dict[str, Any]]:
    """Take all messages that have come."""
    try:
        found: list[dict[str, Any]] = ray.get(
            queue.actor.get_nowait_batch.remote(queue.size())  # type: ignore[attr-defined]
        )
    except ray.exceptions.RayError:
        return []
    return found
