"""Messages: what a worker tells the driver while it trains, without waiting for anybody."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from training.errors import UserError

# Ray takes a moment to notice that a driver was killed.
GONE_S = 10.0


class ProgressSender:
    """One worker's end of the queue; a message that cannot be sent is not worth a run."""

    def __init__(self, queue: Queue, rank: int) -> None:
        self._queue, self._rank = queue, rank

    def send(self, kind: str, **values: float) -> None:
        """Send a message of a kind: `started` or `beat`."""
        message: dict[str, Any] = {"kind": kind, "rank": self._rank, "at_s": time.time(), **values}
        self._queue.actor.put_nowait.remote(message)  # type: ignore[attr-defined]


@contextlib.contextmanager
def open_channel(run: str) -> Iterator[Queue]:
    """The driver's end; takes no CPU of its own from the workers, and goes with the run, or when the driver does.

    Raises:
        Mistake: the run has one already: another driver is at work on it.
    """
    # Beside the driver, whose end it is: any other machine may go.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "name": run, "namespace": "shoal-runs", "scheduling_strategy": here}
    queue = _create_queue(run, options)
    try:
        yield queue
    finally:
        queue.shutdown(force=True)


def _create_queue(run: str, options: dict[str, Any]) -> Queue:
    until_s = time.monotonic() + GONE_S
    while True:
        try:
            return Queue(actor_options=options)
        except ray.exceptions.ActorAlreadyExistsError:
            if time.monotonic() > until_s:
                raise UserError(f"run {run} still runs on this cluster; stop it first, or wait") from None
            time.sleep(0.5)


def silence_worker_deaths() -> None:
    """Keep Ray from printing a paragraph about each worker that dies, whose end the driver tells in a line."""
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


class Receiver:
    """Where the driver listens: it waits without asking again and again, which would take time from the workers."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._next: ray.ObjectRef[dict[str, Any]] | None = None

    def receive(self, wait_s: float) -> list[dict[str, Any]]:
        """Take all messages that have come; waits so long for the first."""
        actor: Any = self._queue.actor
        if self._next is None:
            self._next = actor.get.remote()
        if not ray.wait([self._next], timeout=wait_s)[0]:
            return []
        first, self._next = self._next, None
        try:
            return [ray.get(first), *ray.get(actor.get_nowait_batch.remote(self._queue.size()))]
        except ray.exceptions.RayError:
            time.sleep(wait_s)
            return []
