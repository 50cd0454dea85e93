"""Allowances: what a replica holds of each limit; requests take from them without a round trip.

Request walk: accounts.py -> [allowances.py] -> leasing.py
Units are counted as used and as not held any more when a request takes them, and the ledger hears of it with the next
exchange. An exchange that fails is not repeated: what it gave back is lost for the window, and never given twice.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from deployments.access.limits.leasing import Lease, LeaseRequest
from deployments.access.limits.limit import Dimension, Limit, Period

# Seconds between exchanges while there is something to tell; of rates, whose leases are short.
EXCHANGE_S, RATE_EXCHANGE_S = 0.25, 0.05
# Units are asked for ahead for so many exchanges.
AHEAD_EXCHANGES = 2.0
# A request waits so long for units that other replicas hold, and asks again so often.
MAX_WAIT_S, ASK_AGAIN_S = 1.0, 0.05
# After a refusal the ledger is asked again after so long at most: a limit may be raised, a request give back.
MIN_REFUSAL_S, MAX_REFUSAL_S = 0.02, 1.0
# What a request is taken to compute at least, in seconds.
LEAST_COMPUTE_S = 1e-3
_TOLERANCE = 1e-9


class Waiter(NamedTuple):
    """A request that waits for units."""

    amount: float
    future: "asyncio.Future[bool]"
    until_s: float


class Allowance:
    """One limit of one subject, in one process.

    Attributes:
        is_durable: whether the ledger keeps it in its database.
        limit: as it was when the process first saw it; its amount may be another one now, see `lease`.
        subject: that it is of.
        available: units that requests may take.
        window_s: start of the window that they are of.
        lease: the last one.
        resets_s: when its window ends, on the monotonic clock.
        is_retired: the limit was lifted.
    """

    def __init__(self, subject: str, limit: Limit, ask: Callable[[bool], None]) -> None:
        """Make an allowance without any units.

        Args:
            subject: of the limit.
            limit: the limit.
            ask: makes an exchange with the ledger begin, of durable limits or of others.
        """
        self.subject, self.limit, self._ask = subject, limit, ask
        # A rate's exchanges are many, and must not wait for the database.
        self.is_durable = limit.period not in (None, Period.SECOND)
        self.exchange_s = RATE_EXCHANGE_S if limit.period is Period.SECOND else EXCHANGE_S
        self.available, self.window_s, self.expires_s = 0.0, 0.0, -math.inf
        self.lease, self.resets_s = Lease(0.0, 0.0, 0.0, limit.amount, 0.0, 0.0), 0.0
        self.is_retired = False
        self._least = 1.0 if limit.is_whole else LEAST_COMPUTE_S
        self._used = self._released = 0.0
        self._waiters: deque[Waiter] = deque()
        # Of these, how many the exchange that goes on asks for.
        self._asked = 0
        self._refused_until_s = -math.inf
        self._demand, self._demand_s, self._rate = 0.0, time.monotonic(), 0.0

    @property
    def remaining(self) -> float:
        """Units that are left, of what this process knows."""
        return max(0.0, self.lease.limit - self.used)

    @property
    def used(self) -> float:
        """Units that are used, or held by others."""
        return max(0.0, self.lease.used - self.available)

    def has(self, amount: float) -> bool:
        """Whether a request may take units now."""
        return self.available >= amount and time.monotonic() < self.expires_s and not self._waiters

    def is_refused(self) -> bool:
        """Whether the ledger has just said that there are no units."""
        return self._refused_until_s > time.monotonic() and self.available < self._least

    def take(self, amount: float) -> None:
        """Take units that are there."""
        self._demand += amount
        self._take(amount)

    def _take(self, amount: float) -> None:
        self.available -= amount
        self._used += amount
        self._released += amount

    def give_back(self, amount: float, window_s: float) -> None:
        """Give back units that a request took in a window and has not used."""
        if window_s == self.window_s:
            self._take(-amount)

    def settle(self, estimate: float, actual: float) -> None:
        """Take what a request has used beyond its estimate, or give back what it has not used."""
        self._take(actual - estimate)
        if self.available < 0:
            # The debt is the window's: nothing was reserved for it.
            self._released += self.available
            self.available = 0.0

    def wait(self, amount: float) -> "asyncio.Future[bool]":
        """Ask the ledger for units of a request; the future tells whether they were taken for it.

        Its exception: the ledger does not answer.
        """
        self._demand += amount
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(Waiter(amount, future, time.monotonic() + MAX_WAIT_S))
        self._ask(self.is_durable)
        return future

    @property
    def is_waited_for(self) -> bool:
        """Whether requests wait for units."""
        return bool(self._waiters)

    @property
    def has_news(self) -> bool:
        """Whether the ledger has to hear of it: something was used, asked for or is held."""
        return bool(self._used or self._released or self.available or self._waiters or self._demand)

    def build_request(self) -> LeaseRequest:
        """Tell what was used and what is given back, and ask for what is needed; it is sent once, whatever happens."""
        now_s = time.monotonic()
        self._measure_rate(now_s)
        while self._waiters and self._waiters[0].future.done():
            self._waiters.popleft()
        need, self._asked = sum(waiter.amount for waiter in self._waiters), len(self._waiters)
        wanted = self._rate * self.exchange_s * AHEAD_EXCHANGES
        # Who waits may need more than is here; who does not may have more than it needs.
        keeps = not need and not self.is_retired and now_s < self.expires_s
        excess = self.available - min(self.available, 2 * wanted if keeps else 0.0)
        if self.limit.is_whole:
            excess = float(math.ceil(excess - _TOLERANCE))
        self.available -= excess
        self._released += excess
        ahead = 0.0 if self.is_retired else max(0.0, wanted - self.available)
        request = self._encode(need, ahead)
        self._used = self._released = 0.0
        return request

    def _encode(self, need: float, ahead: float) -> LeaseRequest:
        return LeaseRequest(
            self.subject, self.limit.name, self.window_s, self._used, self._released, need=need, ahead=ahead
        )

    def _measure_rate(self, now_s: float) -> None:
        elapsed_s = now_s - self._demand_s
        if elapsed_s >= self.exchange_s:
            rate = self._demand / elapsed_s
            self._rate = rate and max(rate, self._rate / 2)
            self._demand, self._demand_s = 0.0, now_s

    def apply(self, lease: Lease) -> None:
        """Take what the ledger lends, and let the requests go on that it is enough for."""
        now_s = time.monotonic()
        if lease.window_s != self.window_s:
            # What is left of the window before is void; what was taken of it since the request is the new one's.
            self.available, self.window_s, self._released = 0.0, lease.window_s, 0.0
        self.lease, self.resets_s = lease, now_s + lease.reset_s
        self.available += lease.granted
        self.expires_s = now_s + lease.valid_s
        kept: deque[Waiter] = deque()
        for number, waiter in enumerate(self._waiters):
            if waiter.future.done():
                continue
            if self.available + _TOLERANCE >= waiter.amount:
                self._take(waiter.amount)
                waiter.future.set_result(True)
            elif number >= self._asked or (lease.may_return and now_s < waiter.until_s):
                kept.append(waiter)
            else:
                waiter.future.set_result(False)
                if not lease.may_return and self.remaining < self._least:
                    self._refused_until_s = now_s + min(max(lease.reset_s, MIN_REFUSAL_S), MAX_REFUSAL_S)
        self._waiters = kept

    def forget_refusal(self) -> None:
        """Ask the ledger at the next request again: limits have changed."""
        self._refused_until_s = -math.inf

    def fail(self, error: Exception) -> None:
        """The ledger did not answer: requests that wait are refused, and what is held is good until it expires."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(error)


class Places(Allowance):
    """An allowance of concurrent requests: what a request takes it gives back at its end."""

    def __init__(self, subject: str, limit: Limit, ask: Callable[[bool], None]) -> None:
        super().__init__(subject, limit, ask)
        self._busy = 0.0

    def _take(self, amount: float) -> None:
        self.available -= amount
        self._busy += amount

    def give_back(self, amount: float, window_s: float = 0.0) -> None:
        """Give back the places of a request that has ended."""
        self._take(-amount)

    @property
    def has_news(self) -> bool:
        """Whether the ledger has to hear of it."""
        return super().has_news or bool(self._busy)

    def _encode(self, need: float, ahead: float) -> LeaseRequest:
        held = self.available + self._busy
        return LeaseRequest(self.subject, self.limit.name, used=self._busy, need=need, ahead=ahead, held=held)


def build_allowance(subject: str, limit: Limit, ask: Callable[[bool], None]) -> Allowance:
    """Make an allowance for a limit."""
    return (Places if limit.dimension is Dimension.CONCURRENT else Allowance)(subject, limit, ask)
