"""Request limits of one replica: concurrent requests, and seconds for each and for its body."""

import asyncio
import math

from deployments.access.limits.weights import get_weight
from deployments.errors import BodyTimeout, DeadlineExceeded, QueueFull, UnsupportedMediaType
from deployments.server.request import Request
from deployments.server.scheduling import BATCH, read_scheduling
from deployments.settings import Limits

# How often deadlines are checked, unless they are shorter.
CHECK_INTERVAL_S = 0.25
# A tenant that was here so short a time ago comes again: its share of the places is kept from others.
TENANT_MEMORY_S = 10.0
# What is late in its queue or its node says so itself, and more precisely.
DEADLINE_MARGIN_S = 0.02
# Of the request's own time. A slot is taken with the header, so that bodies on their way are limited in number too; one
# that does not come gives it back early.
BODY_TIME_SHARE = 0.5


class RequestLimits:
    """Refuses requests over the queue's limit; cancels those that are late.

    One timer for all requests: with one for each (asyncio.timeout), setting and canceling them took 7% of a small
    model's time; only those that name a deadline have their own. A stream that has begun has its own timeout; see
    sse.py.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Batch requests leave half of the places to interactive ones.
        self._max_batch_requests = max(1, limits.max_queue // 2)
        self._check_interval_s = min(CHECK_INTERVAL_S, limits.request_timeout_s / 20)
        # Requests inside, and when each was last here, by tenant.
        self._by_tenant: dict[str, int] = {}
        self._seen_s: dict[str, float] = {}
        # When each is canceled, in the event loop's time.
        self._deadlines_s: dict[Request, float] = {}
        # Of those that name a deadline.
        self._own_timers: dict[Request, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def admit(self, request: Request) -> None:
        """Read a request's deadline and priority, and refuse it where its priority has no place left.

        Raises:
            ClientError: a header is not valid.
            QueueFull: too many requests are inside.
        """
        scheduling = request.scheduling = read_scheduling(request.headers, self._limits.request_timeout_s)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        ongoing, tenant, now_s = len(self._deadlines_s), request.caller.tenant, loop.time()
        # Of one that finds no place, too: others then leave it one.
        self._seen_s[tenant] = now_s
        if ongoing >= self._max_batch_requests:
            if ongoing >= self._limits.max_queue:
                raise QueueFull(f"this replica has {ongoing} requests, its limit; try again shortly")
            if scheduling is not None and scheduling.priority == BATCH:
                raise QueueFull(f"this replica has {ongoing} requests, its limit for batch requests; try again shortly")
        inside = self._by_tenant.get(tenant, 0)
        if 2 * ongoing >= self._limits.max_queue:
            self._check_share(tenant, inside, now_s)
        self._by_tenant[tenant] = inside + 1
        request.limits = self
        self._deadlines_s[request] = now_s + self._limits.request_timeout_s
        if scheduling is not None and scheduling.deadline_s != math.inf:
            delay_s = scheduling.remaining_s() + DEADLINE_MARGIN_S
            self._own_timers[request] = loop.call_later(delay_s, self._cancel_late, request, scheduling.timeout_s)
        if self._timer is None:
            self._timer = loop.call_later(self._check_interval_s, self._check_deadlines, loop)

    def leave(self, request: Request) -> None:
        """Forget a request."""
        if self._deadlines_s.pop(request, None) is None:
            return
        tenant = request.caller.tenant
        if self._by_tenant[tenant] > 1:
            self._by_tenant[tenant] -= 1
        else:
            del self._by_tenant[tenant]
        if self._own_timers:
            self._cancel_own_timer(request)

    def _check_share(self, tenant: str, inside: int, now_s: float) -> None:
        """Refuse a tenant that has its share of the places already, where others are here too.

        Raises:
            QueueFull: it has.
        """
        if len(self._seen_s) == 1:
            return
        self._seen_s = {name: seen_s for name, seen_s in self._seen_s.items() if now_s - seen_s < TENANT_MEMORY_S}
        weight, weights = get_weight(tenant), sum(map(get_weight, self._seen_s))
        places = max(1, math.floor(self._limits.max_queue * weight / weights))
        if inside >= places:
            raise QueueFull(
                f"this replica is busy, and has {inside} requests of tenant {tenant or 'nobody'}, its share beside "
                "those of others; try again shortly"
            )

    @property
    def stall_timeout_s(self) -> float:
        """Seconds that a caller may take to read an event."""
        return self._limits.stream_stall_timeout_s

    def extend_deadline(self, request: Request) -> float:
        """Lift the deadline of a request whose response has begun; returns the seconds that the stream may take."""
        self._deadlines_s[request] = math.inf
        self._cancel_own_timer(request)
        return self._limits.stream_timeout_s

    def _check_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel late requests; runs again while there are requests."""
        now_s, timeout_s = loop.time(), self._limits.request_timeout_s
        body_timeout_s = BODY_TIME_SHARE * timeout_s
        body_due_s = now_s + timeout_s - body_timeout_s
        for request in [
            each
            for each, deadline_s in self._deadlines_s.items()
            if deadline_s <= body_due_s and (deadline_s <= now_s or not each.is_received)
        ]:
            # The error's response is this request's end; one whose handler does not end is not told twice.
            self._deadlines_s[request] = math.inf
            if request.is_received:
                request.cancel(DeadlineExceeded(f"no response within {timeout_s:g} s; try again, or send less"))
            else:
                request.cancel(
                    BodyTimeout(f"the body was not complete within {body_timeout_s:g} s; send it at once, or send less")
                )
        self._timer = (
            loop.call_later(self._check_interval_s, self._check_deadlines, loop) if self._deadlines_s else None
        )

    def _cancel_late(self, request: Request, timeout_s: float) -> None:
        """Cancel a request at the deadline that it names."""
        del self._own_timers[request]
        self._deadlines_s[request] = math.inf
        request.cancel(
            DeadlineExceeded(f"no response within the request's timeout of {timeout_s:g} s; set a longer one")
        )

    def _cancel_own_timer(self, request: Request) -> None:
        timer = self._own_timers.pop(request, None)
        if timer is not None:
            timer.cancel()


def reject_encoding(request: Request) -> None:
    """Refuse compressed bodies: a small one can decompress to any size.

    Raises:
        UnsupportedMediaType: the body is encoded.
    """
    encoding = request.headers.get(b"content-encoding")
    if encoding and encoding != b"identity":
        raise UnsupportedMediaType(
            f"content encoding {encoding.decode('latin-1')!r} is not supported; send the body without one"
        )
