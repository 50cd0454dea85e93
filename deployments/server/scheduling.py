"""Scheduling of a request: when its response is due, and whether others may go first; from headers to the batcher.

Request walk: request_limits.py -> [scheduling.py] -> deployments.models.served_model -> deployments.models.batching
A request without these headers has None, and costs two look-ups. The name of the first is Ray Serve's. gRPC has a
deadline of its own (grpc-timeout), and the Open Inference Protocol the parameters `timeout` and `priority` of Triton.
"""

import math
from collections.abc import Mapping
from time import perf_counter
from typing import NamedTuple

from deployments.errors import ClientError

TIMEOUT_HEADER, PRIORITY_HEADER = b"x-request-timeout-seconds", b"x-request-priority"
INTERACTIVE, BATCH = 0, 1
PRIORITIES = {b"interactive": INTERACTIVE, b"batch": BATCH}


class Scheduling(NamedTuple):
    """When a response is due, and what goes first.

    Attributes:
        deadline_s: on the clock of time.perf_counter(); infinity where only the service's own limit holds.
        priority: INTERACTIVE, or BATCH: computed where passes have room, and refused first.
        timeout_s: that the deadline was made of, for messages.
    """

    deadline_s: float = math.inf
    priority: int = INTERACTIVE
    timeout_s: float = math.inf

    @classmethod
    def after(cls, timeout_s: float, priority: int = INTERACTIVE) -> "Scheduling":
        """Make the scheduling of a request that is due in so many seconds from now."""
        return cls(perf_counter() + timeout_s, priority, timeout_s)

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - perf_counter()

    def without_deadline(self) -> "Scheduling":
        """The same priority; for what may go on after its first part is out."""
        return Scheduling(priority=self.priority)


def read_scheduling(headers: Mapping[bytes, bytes], max_timeout_s: float) -> Scheduling | None:
    """Read the scheduling of a request whose header has just come; None where it says nothing.

    Args:
        headers: by lower case name.
        max_timeout_s: the service's own limit; a longer time is cut to it.

    Raises:
        ClientError: a value is not valid.
    """
    timeout, priority = headers.get(TIMEOUT_HEADER), headers.get(PRIORITY_HEADER)
    if timeout is None and priority is None:
        return None
    level = INTERACTIVE if priority is None else parse_priority(priority)
    if timeout is None:
        return Scheduling(priority=level)
    return Scheduling.after(min(parse_timeout(timeout), max_timeout_s), level)


def parse_timeout(value: bytes) -> float:
    """Parse seconds.

    Raises:
        ClientError: no finite number above 0.
    """
    try:
        timeout_s = float(value)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s < math.inf:
        raise ClientError(
            f"{TIMEOUT_HEADER.decode()} is {value.decode('latin-1')!r}; send a number of seconds above 0, such as 0.5"
        )
    return timeout_s


def parse_priority(value: bytes) -> int:
    """Parse a priority.

    Raises:
        ClientError: there is no such priority.
    """
    priority = PRIORITIES.get(value.lower())
    if priority is None:
        raise ClientError(
            f"{PRIORITY_HEADER.decode()} is {value.decode('latin-1')!r}; send interactive, the default, or batch"
        )
    return priority
