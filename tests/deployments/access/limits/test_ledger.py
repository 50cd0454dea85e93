"""The ledger, on SQLite and PostgreSQL: whatever happens in whatever order, never more than the limit is admitted."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.access.limits.leasing import Lease, LeaseRequest, Policies
from deployments.access.limits.ledger import PLACES_SILENCE_S, Ledger
from deployments.access.limits.limit import Period, find_window
from deployments.state.limit_store import KEEP_S, Counters, LimitStore, WindowKey
from tests.postgres import run_postgres

LIMIT, NAME = 20, "requests/day"
NOON_S = 20_000 * 86400 + 43_200.0
_numbers = itertools.count()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with run_postgres() as folder:
        yield f"postgresql+psycopg://shoal@/postgres?host={folder}"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LimitStore:
    uri = f"sqlite:///{tmp_path}/platform.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    return LimitStore(uri)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


def make_ledger(store: LimitStore, clock: Clock, subject: str, **limits: str) -> Ledger:
    ledger = Ledger(store, clock, clock)
    named = {name.replace("_per_", "/"): amount for name, amount in limits.items()}
    ledger.set_policies(Policies(1, {subject: named or {NAME: str(LIMIT)}}))
    return ledger


def make_subject() -> str:
    return f"key:{next(_numbers)}"


def ask(ledger: Ledger, holder: str, request: LeaseRequest) -> Lease:
    (lease,) = ledger.exchange(holder, [request])
    return lease


class Replica:
    """Holds what it was lent, and counts what it has admitted."""

    def __init__(self, ledger: Ledger, name: str, subject: str) -> None:
        self.ledger, self.name, self.subject = ledger, name, subject
        self.held = self.used = self.released = self.admitted = 0.0
        self.window_s = 0.0

    def exchange(self, need: float, ahead: float, gives_back: float = 0.0) -> None:
        given = min(gives_back, self.held)
        request = LeaseRequest(
            self.subject, NAME, self.window_s, self.used, self.released + given, need=need, ahead=ahead
        )
        self.held -= given
        self.used = self.released = 0.0
        lease = ask(self.ledger, self.name, request)
        assert 0 <= lease.granted <= need + ahead
        self.held, self.window_s = self.held + lease.granted, lease.window_s

    def admit(self, amount: float) -> None:
        taken = min(amount, self.held)
        self.held -= taken
        self.used, self.released, self.admitted = self.used + taken, self.released + taken, self.admitted + taken

    def refund(self) -> None:
        if self.admitted:
            self.held, self.admitted = self.held + 1, self.admitted - 1
            self.used, self.released = self.used - 1, self.released - 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("exchange"), st.integers(0, 2), st.integers(0, 8), st.integers(0, 8), st.integers(0, 5)),
        st.tuples(st.just("admit"), st.integers(0, 2), st.integers(1, 8)),
        st.tuples(st.just("refund"), st.integers(0, 2)),
        st.tuples(st.just("crash"), st.integers(0, 2)),
        st.tuples(st.just("lost answer"), st.integers(0, 2), st.integers(0, 8)),
        st.tuples(st.just("new ledger")),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_interleaving_admits_more_than_the_limit_and_without_a_loss_all_of_it_is_admitted(
    store: LimitStore, steps: list[tuple[str, int, int, int, int]]
) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject)
    replicas = [Replica(ledger, f"replica-{number}", subject) for number in range(3)]
    lost = crashed = 0.0
    for step, *arguments in steps:
        if step == "new ledger":
            ledger = make_ledger(store, clock, subject)
            for replica in replicas:
                replica.ledger = ledger
            continue
        replica = replicas[arguments[0]]
        if step == "exchange":
            replica.exchange(*arguments[1:])
        elif step == "admit":
            replica.admit(arguments[1])
        elif step == "refund":
            replica.refund()
        elif step == "crash":
            crashed += replica.admitted
            lost += replica.held
            replicas[arguments[0]] = Replica(ledger, f"replica-{next(_numbers)}", subject)
        else:
            # The ledger has lent, and the replica has not heard of it; what it told is not told again.
            request = LeaseRequest(subject, NAME, replica.window_s, replica.used, replica.released, arguments[1])
            lost += ask(ledger, replica.name, request).granted
            replica.used = replica.released = 0.0
        assert crashed + sum(each.admitted for each in replicas) <= LIMIT

    for replica in replicas:
        replica.exchange(0, 0, replica.held)
    for replica in replicas:
        replica.exchange(LIMIT, 0)
        replica.admit(LIMIT)

    assert crashed + sum(each.admitted for each in replicas) == LIMIT - lost


def test_what_is_used_and_lent_is_in_the_database(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject)
    replica = Replica(ledger, "replica", subject)
    key = WindowKey(subject, NAME, int(find_window(Period.DAY, NOON_S).start_s))

    replica.exchange(5, 0)
    replica.admit(3)
    lent = store.get_counters(key)
    replica.exchange(0, 0)

    assert lent == Counters(0, 5)
    assert store.get_counters(key) == Counters(3, 2)


def test_a_new_window_begins_with_all_of_the_limit_and_old_ones_are_deleted(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject)
    first = ask(ledger, "replica", LeaseRequest(subject, NAME, need=LIMIT))
    refused = ask(ledger, "replica", LeaseRequest(subject, NAME, first.window_s, LIMIT, LIMIT, need=1))
    clock.now_s += 43_200

    second = ask(ledger, "replica", LeaseRequest(subject, NAME, first.window_s, need=LIMIT))
    store.delete_old(clock.now_s + KEEP_S - 1)

    assert (first.granted, first.reset_s) == (LIMIT, 43_200)
    assert (refused.granted, refused.used, refused.may_return) == (0, LIMIT, False)
    assert (second.granted, second.window_s) == (LIMIT, NOON_S + 43_200)
    assert store.get_counters(WindowKey(subject, NAME, int(first.window_s))) == Counters()
    assert store.get_counters(WindowKey(subject, NAME, int(second.window_s))) == Counters(0, LIMIT)


def test_who_is_refused_hears_whether_another_replica_holds_what_may_come_back(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject)
    lease = ask(ledger, "one", LeaseRequest(subject, NAME, need=LIMIT))

    early = ask(ledger, "two", LeaseRequest(subject, NAME, need=1))
    ask(ledger, "one", LeaseRequest(subject, NAME, lease.window_s, LIMIT - 1, LIMIT))
    returned = ask(ledger, "two", LeaseRequest(subject, NAME, need=1))
    late = ask(ledger, "two", LeaseRequest(subject, NAME, returned.window_s, 1, 1, need=1))

    assert (early.granted, early.may_return) == (0, True)
    assert (returned.granted, late.granted, late.may_return) == (1, 0, False)


def test_near_the_limit_little_is_lent_ahead(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject, requests_per_month="1000")
    first = ask(ledger, "one", LeaseRequest(subject, "requests/month", need=1))

    far = ask(ledger, "one", LeaseRequest(subject, "requests/month", first.window_s, need=1, ahead=1000))
    near = ask(ledger, "two", LeaseRequest(subject, "requests/month", need=870, ahead=1000))

    assert far.granted == 1 + 998 // 8
    assert near.granted == 870 + (1000 - 1 - far.granted - 870) // 8


def test_a_rate_is_that_of_all_replicas_and_a_debt_is_paid_first(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject, requests_per_second="100")
    granted = 0.0
    for step in range(2000):
        clock.now_s = NOON_S + step * 0.005
        granted += ask(ledger, f"replica-{step % 4}", LeaseRequest(subject, "requests/second", need=3)).granted
    ask(ledger, "replica-0", LeaseRequest(subject, "requests/second", used=50))
    clock.now_s += 0.4

    in_debt = ask(ledger, "replica-0", LeaseRequest(subject, "requests/second", need=1))
    clock.now_s += 0.2

    # A second's units at the start, then ten seconds'.
    assert granted == pytest.approx(100 + 100 * 9.995, abs=1)
    assert (in_debt.granted, in_debt.reset_s > 0) == (0, True)
    assert ask(ledger, "replica-0", LeaseRequest(subject, "requests/second", need=1)).granted == 1


def test_places_are_shared_and_those_of_a_replica_that_is_gone_are_lent_again(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject, concurrent="8")
    starting = ask(ledger, "one", LeaseRequest(subject, "concurrent", need=1))
    clock.now_s += 2

    first = ask(ledger, "one", LeaseRequest(subject, "concurrent", need=6))
    second = ask(ledger, "two", LeaseRequest(subject, "concurrent", need=6))
    ask(ledger, "one", LeaseRequest(subject, "concurrent", used=6, held=6))
    full = ask(ledger, "two", LeaseRequest(subject, "concurrent", used=2, held=2, need=1))
    clock.now_s += PLACES_SILENCE_S + 1

    assert (starting.granted, starting.may_return) == (0, True)
    assert (first.granted, second.granted) == (6, 2)
    assert (full.granted, full.may_return) == (0, False)
    assert ask(ledger, "two", LeaseRequest(subject, "concurrent", used=2, held=2, need=6)).granted == 6


def test_a_limit_that_was_lifted_holds_nobody_up(store: LimitStore) -> None:
    clock, subject = Clock(), make_subject()
    ledger = make_ledger(store, clock, subject)
    ledger.set_policies(Policies(2))

    leases = ledger.exchange("one", [LeaseRequest(subject, name, need=500) for name in (NAME, "requests/second")])

    assert [lease.granted for lease in leases] == [500, 500]
