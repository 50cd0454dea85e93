"""Pass timing: how long forward passes of each number of rows last, measured when a replica starts.

Deploy walk: batching.py -> [pass_timing.py] -> deployments.scaling.profile
"""

from collections.abc import Callable
from time import perf_counter

import numpy as np

from deployments.protocols.arrays import Array
from deployments.scaling.profile import MIN_PASS_S, PassTiming

# Rounds of timing passes of every size, after the first.
MIN_ROUNDS, MAX_ROUNDS = 2, 200
# Larger passes are tried up to this, although none of the last two was faster for a row: kernels for some rows may be
# slower than those for fewer and for more, and a timing may have met a busy moment.
MAX_TRIED_PASS_S = max(0.1, MIN_PASS_S)


def time_passes(forward: Callable[[Array], object], x: Array, max_rows: int, budget_s: float) -> tuple[PassTiming, ...]:
    """Time passes of every size that may be worth it; returns them ascending by rows.

    Args:
        forward: runs a pass.
        x: one row, shape (1, ...).
        max_rows: of a pass.
        budget_s: seconds for further rounds of timing, whose number decides how fine the percentiles are.
    """
    durations_s: dict[int, list[float]] = {}
    best = size = 1
    while size <= max_rows and (size <= 4 * best or max(map(min, durations_s.values())) < MAX_TRIED_PASS_S):
        batch = np.repeat(x, size, axis=0)
        forward(batch)
        durations_s[size] = [_time_pass(forward, batch)]
        best = min(durations_s, key=lambda each: min(durations_s[each]) / each)
        # Powers of two, and the maximum.
        size = size * 2 if size == max_rows else min(size * 2, max_rows)
    # More rounds over all sizes: the start of another replica, which lasts seconds, slows them all alike.
    end_s = perf_counter() + budget_s
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and perf_counter() < end_s):
        for each, timed_s in durations_s.items():
            timed_s.append(_time_pass(forward, np.repeat(x, each, axis=0)))
        rounds += 1
    return tuple(PassTiming.of(each, timed_s) for each, timed_s in durations_s.items())


def _time_pass(forward: Callable[[Array], object], batch: Array) -> float:
    start = perf_counter()
    forward(batch)
    return perf_counter() - start
