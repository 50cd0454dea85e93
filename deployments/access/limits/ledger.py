"""Ledger: lends the units of each limit to the replicas that have requests for them, and never more than there are.

Request walk: leasing.py -> [ledger.py] -> limit.py, deployments.state.limit_store
Units of minutes, hours, days and months are rows of the database: they survive whatever dies, and what a replica held
that died counts as used. Rates by the second and concurrent requests are not money, and are kept in memory: a new
ledger's first second may admit twice a rate, and it lends no places until each replica has said what it holds.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deployments.access.limits.leasing import LEASE_S, Lease, LeaseRequest, Policies
from deployments.access.limits.limit import Dimension, Limit, Period, find_window, read_limit
from deployments.state.limit_store import Counters, LimitStore, LimitTransaction, Reservation, WindowKey

# A lease ahead takes this share of what is left, so that near the limit no replica holds what another one needs.
AHEAD_SHARE = 1 / 8
# A lease of a rate is for so long: its units go where the requests are.
RATE_LEASE_S = 0.1
# After so long another request may have ended.
PLACE_S = 0.1
# What a replica that has not been heard of for so long held will not come back.
SILENCE_S = 1.5
# A replica without contact goes on with the requests that are inside; their places are lent again after so long.
PLACES_SILENCE_S = 10.0

Clock = Callable[[], float]


@dataclass
class _Bucket:
    """Token bucket of a rate: holds a second's units at most; a debt where requests took more than estimated."""

    units: float
    updated_s: float

    def refill(self, rate: float, now_s: float) -> None:
        capacity = max(rate, 1.0)
        self.units = min(capacity, self.units + rate * max(0.0, now_s - self.updated_s))
        self.updated_s = now_s


@dataclass
class _Holdings:
    """What each replica holds of one limit, as far as this life of the ledger has seen it."""

    window_s: float = 0.0
    units: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    # Of concurrent requests: places that requests are in.
    busy: dict[str, float] = field(default_factory=dict)
    # Of a window: what was gone of it at the last look.
    total: float | None = None


class Ledger:
    """All limits of a cluster. One caller at a time, of each kind: with the database and without."""

    def __init__(self, store: LimitStore, clock: Clock = time.time, monotonic: Clock = time.monotonic) -> None:
        """Make a ledger.

        Args:
            store: of the windows.
            clock: seconds since the epoch.
            monotonic: seconds for rates and leases.
        """
        self._store, self._clock, self._monotonic = store, clock, monotonic
        self._limits: dict[str, dict[str, Limit]] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._holdings: dict[tuple[str, str], _Holdings] = defaultdict(_Holdings)
        self._seen_s: dict[str, float] = {}
        self._started_s = monotonic()

    def set_policies(self, policies: Policies) -> None:
        """Take the limits of now; what was used of them stays."""
        self._limits = {
            subject: {name: read_limit(name, amount) for name, amount in limits.items()}
            for subject, limits in policies.limits.items()
        }

    @staticmethod
    def needs_database(requests: Sequence[LeaseRequest]) -> bool:
        """Whether an exchange takes the database's time; of one that does not, another thread may make others."""
        return any(_is_windowed(request.limit) for request in requests)

    def exchange(self, holder: str, requests: Sequence[LeaseRequest]) -> list[Lease]:
        """Settle what a replica has used and gives back, and lend what it needs.

        Args:
            holder: id of the replica.
            requests: at most one of each limit.
        """
        self._seen_s[holder] = self._monotonic()
        leases: list[Lease] = []

        def change(transaction: LimitTransaction) -> None:
            leases.extend(self._exchange_one(transaction, holder, request) for request in requests)

        if self.needs_database(requests):
            self._store.run(change)
            return leases
        return [self._exchange_one(None, holder, request) for request in requests]

    def _exchange_one(self, transaction: LimitTransaction | None, holder: str, request: LeaseRequest) -> Lease:
        limit = self._limits.get(request.subject, {}).get(request.limit)
        if _is_windowed(request.limit):
            assert transaction is not None
            return self._exchange_window(transaction, holder, request, limit)
        if limit is None:
            # It was lifted; the replica hears of it at the same time.
            return Lease(request.need, 0.0, LEASE_S, math.inf, 0.0, 0.0)
        if limit.dimension is Dimension.CONCURRENT:
            return self._exchange_places(holder, request, limit)
        return self._exchange_rate(request, limit)

    def _exchange_window(
        self, transaction: LimitTransaction, holder: str, request: LeaseRequest, limit: Limit | None
    ) -> Lease:
        subject, name = request.subject, request.limit
        if request.used or request.released:
            key = WindowKey(subject, name, int(request.window_s))
            transaction.settle(key, request.used, request.released)
        holdings = self._holdings[subject, name]
        if holdings.window_s == request.window_s:
            holdings.units[holder] = max(0.0, holdings.units[holder] - request.released)
            if holdings.total is not None:
                holdings.total += request.used - request.released
        if limit is None or limit.period is None:
            return Lease(request.need, 0.0, LEASE_S, math.inf, 0.0, 0.0)
        now_s = self._clock()
        window = find_window(limit.period, now_s)
        if holdings.window_s != window.start_s:
            holdings = self._holdings[subject, name] = _Holdings(window.start_s)
        key = WindowKey(subject, name, int(window.start_s))
        reservation = self._reserve(transaction, key, request, limit, holdings.total)
        holdings.units[holder] += reservation.granted
        holdings.total = reservation.counters.total
        return Lease(
            reservation.granted,
            window.start_s,
            min(LEASE_S, window.end_s - now_s),
            limit.amount,
            reservation.counters.total,
            window.end_s - now_s,
            may_return=reservation.granted < request.need and self._is_held_elsewhere(holdings, holder),
        )

    def _reserve(
        self, transaction: LimitTransaction, key: WindowKey, request: LeaseRequest, limit: Limit, total: float | None
    ) -> Reservation:
        """Reserve what is needed, and where all of that is there, some of the rest; `total` is gone already."""
        room = 0.0 if total is None else max(0.0, limit.amount - total - request.need)
        ahead = _floor(min(request.ahead, room * AHEAD_SHARE), limit)
        if not request.need + ahead:
            return Reservation(0.0, Counters(total or 0.0))
        return transaction.reserve(key, request.need + ahead, request.need, limit.amount)

    def _is_held_elsewhere(self, holdings: _Holdings, holder: str) -> bool:
        now_s = self._monotonic()
        return any(
            units > holdings.busy.get(other, 0.0)
            and other != holder
            and now_s - self._seen_s.get(other, -math.inf) < SILENCE_S
            for other, units in holdings.units.items()
        )

    def _exchange_rate(self, request: LeaseRequest, limit: Limit) -> Lease:
        now_s, rate = self._monotonic(), limit.amount
        bucket = self._buckets.setdefault((request.subject, request.limit), _Bucket(rate, now_s))
        bucket.refill(rate, now_s)
        # What requests took beyond what was lent to them is a debt.
        bucket.units = min(max(rate, 1.0), bucket.units + request.released - request.used)
        granted = min(request.need, bucket.units)
        granted = request.need if granted == request.need else max(0.0, float(granted // 1))
        ahead = min(request.ahead, max(0.0, bucket.units - granted) * AHEAD_SHARE, rate * RATE_LEASE_S)
        granted += _floor(ahead, limit)
        bucket.units -= granted
        missing = max(0.0, min(request.need - granted, 1.0) - bucket.units) if granted < request.need else 0.0
        return Lease(granted, 0.0, RATE_LEASE_S, rate, max(0.0, rate - bucket.units), missing / rate)

    def _exchange_places(self, holder: str, request: LeaseRequest, limit: Limit) -> Lease:
        now_s, holdings = self._monotonic(), self._holdings[request.subject, request.limit]
        for other in [each for each in holdings.units if now_s - self._seen_s.get(each, now_s) > PLACES_SILENCE_S]:
            del holdings.units[other]
        holdings.units[holder], holdings.busy[holder] = request.held, request.used
        free = limit.amount - sum(holdings.units.values())
        is_settled = now_s - self._started_s > LEASE_S
        granted = max(0.0, min(request.need, free)) if is_settled else 0.0
        granted += float(max(0.0, min(request.ahead, (free - granted) * AHEAD_SHARE)) // 1) if is_settled else 0.0
        holdings.units[holder] += granted
        used = sum(holdings.units.values())
        may_return = granted < request.need and (not is_settled or self._is_held_elsewhere(holdings, holder))
        return Lease(granted, 0.0, LEASE_S, limit.amount, used, PLACE_S if granted < request.need else 0.0, may_return)


def _is_windowed(name: str) -> bool:
    period = name.partition("/")[2]
    return bool(period) and period != Period.SECOND


def _floor(amount: float, limit: Limit) -> float:
    return float(math.floor(amount)) if limit.is_whole else amount
