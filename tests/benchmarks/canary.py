"""Canaries: how often a version that is no worse is rolled back, and how soon one that fails twice as often is.

A thousand rollouts are simulated side by side, each looked at every second with what decides about real ones
(deployments/rollout/comparison.py): requests come as a Poisson process, a share of them goes to the new version, some
fail, some are refused, the others have log-normal latencies. In an A/A rollout both versions are the same. Both arms
share a load that swings, and an outage of 30 s in which everybody fails ten times as often.

    python tests/benchmarks/canary.py [--trials 1000] [--rps 200] [--error-rate 0.01] [--folder .] [--json]

The last line of --json: of A/A rollouts, how many were ever rolled back, and how many are undecided when the new
version has had 20 requests (all: too little traffic decides nothing); found_doubled_errors_after is the number of
requests to the new version after which half of the rollouts of one with twice the error rate are rolled back.
"""
# Shapes: T rollouts, B buckets of latency.

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from deployments.rollout.comparison import Array, Block, Comparison
from deployments.rollout.criteria import Criteria
from deployments.scaling.report import BOUNDS_S

STEPS = (0.05, 0.25, 0.5)
LOOKS = 1200
MEDIAN_S, SIGMA = 0.01, 0.5
# What callers get wrong.
REFUSAL_RATE = 0.03
OUTAGE = range(600, 630)


@dataclass
class Rollouts:
    """What became of simulated rollouts; arrays of shape (T,), NaN where it did not come to that.

    Attributes:
        rolled_back_at: second of the roll-back.
        promoted_at: second of the last step's end.
        first_step_at: second of the first step's end.
        requests: to the new version until then.
    """

    rolled_back_at: Array
    promoted_at: Array
    first_step_at: Array
    requests: Array

    @property
    def rolled_back(self) -> int:
        """How many were rolled back."""
        return int(np.isfinite(self.rolled_back_at).sum())


def simulate(
    trials: int,
    rps: float,
    error_rate: float,
    *,
    error_factor: float = 1.0,
    slower: float = 1.0,
    more_refusals: float = 0.0,
    seed: int = 0,
) -> Rollouts:
    """Simulate rollouts of a new version.

    Args:
        trials: how many.
        rps: requests to both versions together in a second.
        error_rate: of the old version.
        error_factor: the new one fails so many times as often.
        slower: it takes so many times as long.
        more_refusals: share of the requests that it refuses, beyond REFUSAL_RATE.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    comparison = Comparison(Criteria(), len(STEPS), (trials,))
    missing = np.full(trials, np.nan)
    rollouts = Rollouts(missing.copy(), missing.copy(), missing.copy(), np.zeros(trials))
    is_active = np.ones(trials, dtype=bool)
    buckets = [compute_buckets(factor) for factor in (1.0, slower)]
    for second in range(1, LOOKS + 1):
        load = rps * (1 + 0.5 * math.sin(second / 60))
        rate = min(0.5, error_rate * (10 if second in OUTAGE else 1))
        share = np.array(STEPS)[np.minimum(comparison.step, len(STEPS) - 1)]
        stable = draw_block(rng, load * (1 - share) * is_active, rate, REFUSAL_RATE, buckets[0])
        failing, refused = min(1.0, rate * error_factor), REFUSAL_RATE + more_refusals
        canary = draw_block(rng, load * share * is_active, failing, refused, buckets[1])
        comparison.observe(stable, canary)
        rollouts.requests += canary.requests
        is_worse, has_passed = comparison.decide()
        rollouts.rolled_back_at[is_active & is_worse] = second
        is_active &= ~is_worse
        has_passed &= is_active
        rollouts.first_step_at[has_passed & (comparison.step == 0)] = second
        is_last = has_passed & (comparison.step == len(STEPS) - 1)
        rollouts.promoted_at[is_last] = second
        is_active &= ~is_last
        comparison.begin_step(has_passed & ~is_last)
        if not is_active.any():
            break
    return rollouts


def draw_block(rng: np.random.Generator, load_T: Array, rate: float, refusal_rate: float, buckets_B: Array) -> Block:
    """Draw what comes of a second's requests."""
    requests_T = rng.poisson(load_T)
    failures_T = rng.binomial(requests_T, rate)
    refusals_T = rng.binomial(requests_T - failures_T, refusal_rate)
    answers_T = requests_T - failures_T - refusals_T
    return Block(requests_T, failures_T, refusals_T, rng.multinomial(answers_T, buckets_B))


def compute_buckets(factor: float) -> Array:
    """The share of log-normal latencies in each bucket of the histogram."""
    below = [0.5 * math.erfc(-math.log(bound / (MEDIAN_S * factor)) / (SIGMA * math.sqrt(2))) for bound in BOUNDS_S]
    shares = np.diff([0.0, *below, 1.0])
    return np.asarray(shares / shares.sum())


def plot(results: dict[str, Rollouts], file: Path) -> None:
    """Plot which share of the rollouts was rolled back, and which was promoted, over time."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("rolled back", "promoted"), strict=True):
        for label, rollouts in results.items():
            at = rollouts.rolled_back_at if name == "rolled back" else rollouts.promoted_at
            seconds = np.sort(at[np.isfinite(at)])
            axes.step(
                [0, *seconds, LOOKS], [*np.arange(len(seconds) + 1) / len(at), len(seconds) / len(at)], label=label
            )
        axes.set(xlabel="seconds, one look each", title=name, ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the scenarios, print a table, draw a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rps", type=float, default=200.0)
    parser.add_argument("--error-rate", type=float, default=0.01)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rates = {"trials": arguments.trials, "rps": arguments.rps, "error_rate": arguments.error_rate}
    results = {
        "the same": simulate(**rates, seed=1),
        "the same, 5% fail": simulate(**rates | {"error_rate": 0.05}, seed=2),
        "errors x2": simulate(**rates, error_factor=2, seed=3),
        "errors x5": simulate(**rates, error_factor=5, seed=4),
        "latency x2": simulate(**rates, slower=2, seed=5),
        "latency x1.2": simulate(**rates, slower=1.2, seed=6),
        "5 points more refusals": simulate(**rates, more_refusals=0.05, seed=8),
        "half refused": simulate(**rates, more_refusals=0.5, seed=9),
    }
    table = Table("new version", "rolled back", "promoted", "undecided", "requests to it, median", "90%", box=None)
    for label, rollouts in results.items():
        promoted = int(np.isfinite(rollouts.promoted_at).sum())
        counts = (rollouts.rolled_back, promoted, arguments.trials - rollouts.rolled_back - promoted)
        quantiles = [f"{np.quantile(rollouts.requests, q):,.0f}" for q in (0.5, 0.9)]
        table.add_row(label, *map(str, counts), *quantiles)
    Console(width=120).print(table)
    file = arguments.folder / "canary.png"
    plot(results, file)
    print(f"plot: {file}")
    if arguments.json:
        same, doubled = results["the same"], results["errors x2"]
        few = simulate(arguments.trials, 20 / STEPS[0] / LOOKS, arguments.error_rate, seed=7)
        found = doubled.requests[np.isfinite(doubled.rolled_back_at)]
        values = {
            "trials": arguments.trials,
            "false_rollbacks": same.rolled_back,
            "undecided_at_20": int((~np.isfinite(few.first_step_at) & ~np.isfinite(few.rolled_back_at)).sum()),
            "found_doubled_errors_after": round(float(np.median(found))) if len(found) else None,
        }
        print(json.dumps(values))


if __name__ == "__main__":
    main()
