"""Progress channel: messages about a run, from its workers to its driver; no training step waits for one.

Train walk: loop.py -> [progress_channel.py] -> training.run.ray_train

| kind | sent by |
|---|---|
| `loading`, `started`, `progress`, `preemption_notice`, `stalled` | workers |
| `report`, `worker_failed` | `training.run.failure_policy`, in Ray Train's controller |
| `scanning`, `data_warning`, `preflight_passed`, `waiting_for_resources`, `interrupted` | the driver, for display |

An actor of our own: every method of `ray.util.queue.Queue` waits for a reply (2.7 ms, 2 busy cores; `put_nowait` 0.6).
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from training.errors import UserError

NAMESPACE = "shoal-runs"
# Ray takes a moment to notice that a driver was killed, and only then ends its actors.
DEAD_DRIVER_TIMEOUT_S = 10.0
RETRY_INTERVAL_S = 0.5

Message = dict[str, Any]
"""`kind`, `rank` of the worker, `at_s` (Unix time), and the values of that kind."""


class _Mailbox:
    """The actor: holds messages in order of arrival."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    async def put(self, message: Message) -> None:
        self._messages.put_nowait(message)

    async def take(self) -> list[Message]:
        """Wait for a message; return it with all that have arrived."""
        messages = [await self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get_nowait())
        return messages


class ProgressChannel:
    """A handle of one run's mailbox; it can be sent to other processes."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def put(self, message: Message) -> None:
        """Deliver a message, and wait until it has arrived.

        Raises:
            ray.exceptions.RayError: the driver, and the mailbox with it, is gone.
        """
        ray.get(self._actor.put.remote(message))

    def put_nowait(self, message: Message) -> None:
        """Send a message without waiting; it is lost where the driver is gone."""
        self._actor.put.remote(message)

    def take(self) -> "ray.ObjectRef[list[Message]]":
        """Request all messages, at least one; the reference is ready when there is one."""
        messages: ray.ObjectRef[list[Message]] = self._actor.take.remote()
        return messages

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor, no_restart=True)


class ProgressSender:
    """A worker's end of the channel."""

    def __init__(self, channel: ProgressChannel, rank: int) -> None:
        self._channel, self._rank = channel, rank

    def send(self, kind: str, **values: float | str) -> None:
        """Send a message without waiting."""
        self._channel.put_nowait({"kind": kind, "rank": self._rank, "at_s": time.time(), **values})


class Receiver:
    """The driver's end of the channel; one request waits in the actor, so that polling costs the workers nothing."""

    def __init__(self, channel: ProgressChannel) -> None:
        self._channel = channel
        self._pending: ray.ObjectRef[list[Message]] | None = None

    def receive(self, timeout_s: float) -> list[Message]:
        """Return the messages that have arrived, after at most `timeout_s` without any."""
        if self._pending is None:
            self._pending = self._channel.take()
        if not ray.wait([self._pending], timeout=timeout_s)[0]:
            return []
        ready, self._pending = self._pending, None
        try:
            return ray.get(ready)
        except ray.exceptions.RayError:
            time.sleep(timeout_s)
            return []


@contextmanager
def open_channel(run: str) -> Iterator[ProgressChannel]:
    """Open the channel of a run; it uses no CPU of the workers' and ends with the block or with the driver.

    Raises:
        UserError: the run has a channel: another driver is running it.
    """
    # On the driver's own node: any other may be taken away.
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "name": run, "namespace": NAMESPACE, "scheduling_strategy": node}
    channel = ProgressChannel(_create_mailbox(run, options))
    try:
        yield channel
    finally:
        channel.close()


def _create_mailbox(run: str, options: dict[str, Any]) -> Any:
    deadline_s = time.monotonic() + DEAD_DRIVER_TIMEOUT_S
    while True:
        try:
            return ray.remote(_Mailbox).options(**options).remote()
        except ray.exceptions.ActorAlreadyExistsError:
            if time.monotonic() > deadline_s:
                raise UserError(f"run {run} is still running on this cluster; stop it first, or wait") from None
            time.sleep(RETRY_INTERVAL_S)
