"""Plan: from a profile and a goal for the latency to rows per pass, requests per second of a replica, and replicas.

The user says the goal and the rate; what serves them is chosen, as in Clipper (Crankshaw et al., NSDI 2017: batches as
large as the goal allows), Nexus (Shen et al., SOSP 2019: two passes within it), INFaaS (Romero et al., ATC 2021: the
cheapest variant that meets it) and InferLine (Crankshaw et al., SoCC 2020: the replicas that a simulation on profiles
finds to meet it).
"""

import math
from collections.abc import Sequence

from pydantic import Field

from deployments.scaling.load import CALL_RATE, CAPACITY, ROW_RATE, TARGET_ONGOING, Load
from deployments.scaling.profile import Profile, choose_pass_rows
from deployments.scaling.simulation import DEFAULT_REQUESTS, Service, Simulated, simulate
from training.errors import UserError
from training.schema import StrictModel

TARGET_SHARE = 0.8
"""Share of what a replica can do within the goal that it is given: the rest is for the time until another one is up."""

# A replica that is as good as idle: what no number of replicas improves upon.
IDLE_SHARE = 0.01
BISECTIONS = 8
# Beyond, replicas are simulated as if the edge chose among them at random, which needs a few more of them.
MAX_SIMULATED_REPLICAS = 16
TARGET_REQUESTS = 5_000


class Overhead(StrictModel):
    """What a request costs beside its pass."""

    request_s: float = Field(0.0, ge=0, description="CPU seconds of the replica's server.")
    row_s: float = Field(0.0, ge=0, description="CPU seconds of the replica's server for each row, on top.")
    path_s: float = Field(0.0, ge=0, description="Seconds on the way to the replica and back.")
    source: str = Field("", description="Where they were measured.")

    @classmethod
    def of(cls, profile: Profile, path_s: float = 0.0, source: str = "") -> "Overhead":
        """Make that of a profile, whose cost of a request is not counted where it was not measured."""
        return cls(request_s=profile.request_s or 0.0, row_s=profile.row_s or 0.0, path_s=path_s, source=source)


class Plan(StrictModel):
    """How many replicas of a variant answer a rate of requests within the goal, and why."""

    variant: str
    processor: str
    threads: int
    replicas: int
    pass_rows: int = Field(description="Most rows of a pass.")
    rps: float
    rows_per_request: int
    slo_p99_s: float
    cv: float = Field(description="Coefficient of variation of the gaps between requests; 1: Poisson.")
    p50_s: float = Field(description="Expected.")
    p99_s: float = Field(description="Expected.")
    utilization: float = Field(description="The rate as a share of what the replicas could do with full passes.")
    max_rps_per_replica: float = Field(description="That one replica answers within the goal.")
    overhead: Overhead
    reason: str


class Targets(StrictModel):
    """What a replica with a goal is given."""

    slo_p99_s: float
    pass_rows: int
    max_rows_per_s: float = Field(description="That it answers within the goal, in requests of one row.")
    ongoing_requests: float = Field(description="Inside it on average at TARGET_SHARE of that.")


def build_service(profile: Profile, slo_p99_s: float, overhead: Overhead) -> Service:
    """Build what a replica of a profile does under a goal."""
    pass_rows = choose_pass_rows(profile.passes, slo_p99_s)
    return Service(profile, pass_rows, overhead.request_s, overhead.path_s, row_s=overhead.row_s)


def find_max_rate(
    service: Service, slo_p99_s: float, *, rows: int = 1, cv: float = 1.0, requests: int = DEFAULT_REQUESTS
) -> float:
    """Find the most requests per second that one replica answers within the goal; 0 where it cannot even when idle.

    Args:
        service: of the replica.
        slo_p99_s: goal for the 99th percentile of the latency.
        rows: of each request.
        cv: of the gaps between arrivals.
        requests: that are simulated at each rate.
    """
    capacity = service.compute_capacity(rows)
    if simulate_idle(service, rows, cv).p99_s > slo_p99_s:
        return 0.0
    low, high = IDLE_SHARE * capacity, capacity
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        if simulate(service, rate, rows=rows, cv=cv, requests=requests).p99_s <= slo_p99_s:
            low = rate
        else:
            high = rate
    return low


def simulate_idle(service: Service, rows: int = 1, cv: float = 1.0) -> Simulated:
    """Simulate a replica that has hardly anything to do."""
    return simulate(service, IDLE_SHARE * service.compute_capacity(rows), rows=rows, cv=cv)


def choose_targets(profile: Profile, slo_p99_s: float) -> Targets:
    """Choose what a replica is given, by its own profile.

    Args:
        profile: of the replica's net on its processor.
        slo_p99_s: goal for the 99th percentile of a request's latency.
    """
    service = build_service(profile, slo_p99_s, Overhead.of(profile))
    max_rate = find_max_rate(service, slo_p99_s, requests=TARGET_REQUESTS)
    # Where passes are too long for the goal, one request at a time is the best there is.
    ongoing = 1.0
    if max_rate:
        ongoing = max(ongoing, simulate(service, TARGET_SHARE * max_rate, requests=TARGET_REQUESTS).ongoing)
    return Targets(slo_p99_s=slo_p99_s, pass_rows=service.pass_rows, max_rows_per_s=max_rate, ongoing_requests=ongoing)


class GoalCapacity:
    """What a replica with a goal reports beside its load, for Serve's policy."""

    def __init__(self, profile: Profile, slo_p99_s: float) -> None:
        self._targets = choose_targets(profile, slo_p99_s)
        self._service = build_service(profile, slo_p99_s, Overhead.of(profile))

    def describe(self, load: Load) -> Load:
        """Describe it for requests like those of a load: many rows in one cost less than each alone."""
        calls = load.get(CALL_RATE, 0.0)
        rows = max(1, round(load[ROW_RATE] / calls)) if calls else 1
        gain = rows * self._service.compute_capacity(rows) / self._service.compute_capacity()
        rows_per_s = gain * TARGET_SHARE * self._targets.max_rows_per_s
        return {TARGET_ONGOING: self._targets.ongoing_requests, CAPACITY: rows_per_s}


def plan_replicas(
    profile: Profile, overhead: Overhead, *, rps: float, slo_p99_s: float, rows: int = 1, cv: float = 1.0
) -> Plan:
    """Plan the replicas of one variant.

    Args:
        profile: of the variant.
        overhead: of the path to it.
        rps: requests per second, of all callers together.
        slo_p99_s: goal for the 99th percentile of a request's latency.
        rows: of each request.
        cv: of the gaps between requests.

    Raises:
        UserError: no number of replicas meets the goal; the message says what is in reach.
    """
    service = build_service(profile, slo_p99_s, overhead)
    max_rate = find_max_rate(service, slo_p99_s, rows=rows, cv=cv)
    if not max_rate:
        raise UserError(_describe_impossible(service, slo_p99_s, rows, cv))
    replicas = _count_replicas(service, max_rate, rps / TARGET_SHARE, slo_p99_s, rows, cv)
    simulated = _simulate_many(service, rps, replicas, rows, cv)
    key = profile.key
    return Plan(
        variant=key.variant,
        processor=key.processor,
        threads=key.threads,
        replicas=replicas,
        pass_rows=service.pass_rows,
        rps=rps,
        rows_per_request=rows,
        slo_p99_s=slo_p99_s,
        cv=cv,
        p50_s=simulated.p50_s,
        p99_s=simulated.p99_s,
        utilization=rps / (replicas * service.compute_capacity(rows)),
        max_rps_per_replica=max_rate,
        overhead=overhead,
        reason=_describe_choice(service, slo_p99_s, max_rate),
    )


def choose_plan(plans: Sequence[Plan]) -> Plan:
    """Choose the plan that takes the fewest processors, and of those the fastest one."""
    return min(plans, key=lambda plan: (plan.replicas * max(1, plan.threads), plan.p99_s))


def _count_replicas(service: Service, max_rate: float, rate: float, slo_p99_s: float, rows: int, cv: float) -> int:
    """Count the replicas for a rate: as few as the simulation allows.

    Each alone, with its share of the requests at random, is the most that is needed: the edge sends a request to the
    replica with the fewest inside, which is better.
    """
    most = math.ceil(rate / max_rate)
    fewest = min(most, math.ceil(rate / service.compute_capacity(rows)))
    if most > MAX_SIMULATED_REPLICAS:
        return most
    while fewest < most:
        replicas = (fewest + most) // 2
        if _simulate_many(service, rate, replicas, rows, cv).p99_s <= slo_p99_s:
            most = replicas
        else:
            fewest = replicas + 1
    return most


def _simulate_many(service: Service, rate: float, replicas: int, rows: int, cv: float) -> Simulated:
    if replicas > MAX_SIMULATED_REPLICAS:
        return simulate(service, rate / replicas, rows=rows, cv=cv)
    return simulate(service, rate, replicas=replicas, rows=rows, cv=cv)


def _describe_choice(service: Service, slo_p99_s: float, max_rate: float) -> str:
    profile, rows = service.profile, service.pass_rows
    pass_ms, p99_ms = (1000 * profile.estimate_pass_s(rows, p99=p99) for p99 in (False, True))
    return (
        f"a pass of {rows} row{'s' * (rows > 1)} lasts {pass_ms:.3g} ms (p99 {p99_ms:.3g} ms), and a request that just "
        f"missed one waits for two; with {1000 * service.request_s:.3g} ms of the server for each request and "
        f"{1000 * service.row_s:.3g} ms for each row, a replica "
        f"answers {max_rate:.4g} requests/s with p99 within {1000 * slo_p99_s:g} ms, and is given "
        f"{TARGET_SHARE:.0%} of that"
    )


def _describe_impossible(service: Service, slo_p99_s: float, rows: int, cv: float) -> str:
    key, best_s = service.profile.key, simulate_idle(service, rows, cv).p99_s
    # Rounded up to two digits.
    reachable_s = 1.05 * best_s
    unit = 10 ** (math.floor(math.log10(reachable_s)) - 1)
    return (
        f"no number of replicas ({key.variant}, {key.processor}) answers 99% of the requests within {slo_p99_s:g} s: "
        f"one without any other load takes {best_s:.3g} s; ask for --slo-p99 {math.ceil(reachable_s / unit) * unit:g} "
        "or more, or for a faster variant (`shoal profile NAME --dtype bf16`, `--compile`, `--cpus`)"
    )
