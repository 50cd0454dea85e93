"""Train and score the ready recipes: `make zoo`, or `python tests/benchmarks/zoo.py [--only A B] [--seeds N] [--json]`.

Starts a cluster with a temporary SHOAL_HOME and removes both. With --json the last line of output is one object:
{"recipes": [{"recipe", "metric", "score", "bar", "passed", "baseline", "baseline_method", "seed_scores",
"durations_s"}, ...]}.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from rich.console import Console
from rich.table import Table

from cluster.local.connect import connect
from cluster.local.ray_environment import set_ray_environment
from cluster.local.running_cluster import exclusive_lock
from cluster.local.start import start_cluster, stop_cluster
from cluster.settings import Settings
from tests.benchmarks.baselines import score_baseline
from training.recipe.load import list_builtin_recipes, load_recipe, override_recipe
from training.recipe.spec import Recipe

# Minimum of the mean score over three seeds; maximum for a metric of which lower is better.
BARS = {
    "breast-cancer": 0.95,
    "iris": 0.93,
    "wine": 0.94,
    "diabetes": 0.45,
    "autompg": 0.85,
    "digits-mlp": 0.935,
    "digits-cnn": 0.985,
    "digits-resnet": 0.985,
    "digits-vae": 108.0,
    "digits-detect": 0.92,
    "sentiment-bag": 0.85,
    "sentiment-lstm": 0.82,
    "sentiment-transformer": 0.82,
    # The majority class has 0.526 of the test rows.
    "sentiment-rnn": 0.676,
    "topics": 0.97,
    "entities": 0.90,
    "entities-last": 0.83,
    "roles": 0.95,
    "shakespeare-lstm": 2.25,
    "shakespeare-gpt": 2.35,
    "speaker": 0.95,
    "sunspots": 18.0,
}


def main() -> int:
    """Train, evaluate, print; returns 1 if a recipe misses its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=list_builtin_recipes(), metavar="RECIPE", choices=list_builtin_recipes()
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe, with seeds 0 to N - 1")
    parser.add_argument("--json", action="store_true", help="print the results as a line of JSON")
    args = parser.parse_args()
    console = Console(stderr=args.json)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="zoo-") as home:
        settings = Settings(home=Path(home), http_port=0, grpc_port=0, dashboard_port=0, ray_port=0)
        set_ray_environment(settings)
        try:
            with exclusive_lock(settings):
                cluster = start_cluster(settings)
            connect(settings, cluster)
            for name in args.only:
                results.append(_train_and_score(load_recipe(name), args.seeds, settings, console))
        finally:
            stop_cluster(settings)
    console.print(_format_table(results))
    if args.json:
        print(json.dumps({"recipes": results}))
    return int(not all(result["passed"] for result in results))


def _train_and_score(recipe: Recipe, num_seeds: int, settings: Settings, console: Console) -> dict[str, Any]:
    from training import tasks
    from training.run.driver import train

    task = tasks.get_task_class(recipe)
    baseline_method, baseline_score = score_baseline(recipe)
    scores, durations_s = [], []
    for seed in range(num_seeds):
        start = time.monotonic()
        result = train(override_recipe(recipe, [f"seed={seed}"]), settings)
        durations_s.append(round(time.monotonic() - start, 1))
        scores.append(round(result.metrics[f"test_{task.primary_metric}"], 4))
        console.print(
            f"{recipe.name}: seed {seed}: {task.primary_metric} {scores[-1]:.4f} in {durations_s[-1]:.0f} s",
            highlight=False,
        )
    mean, bar = statistics.mean(scores), BARS[recipe.name]
    return {
        "recipe": recipe.name,
        "metric": task.primary_metric,
        "score": round(mean, 4),
        "bar": bar,
        "passed": mean >= bar if task.higher_is_better else mean <= bar,
        "baseline": round(baseline_score, 4),
        "baseline_method": baseline_method,
        "seed_scores": scores,
        "durations_s": durations_s,
    }


def _format_table(results: list[dict[str, Any]]) -> Table:
    table = Table("recipe", "metric", "score", "bar", "seeds", "seconds", "baseline", box=None, pad_edge=False)
    for result in results:
        table.add_row(
            result["recipe"],
            result["metric"],
            f"[{'green' if result['passed'] else 'red'}]{result['score']:.4f}",
            f"{result['bar']:g}",
            ", ".join(f"{score:.4f}" for score in result["seed_scores"]),
            ", ".join(f"{duration_s:.0f}" for duration_s in result["durations_s"]),
            f"{result['baseline']:.4f} ({result['baseline_method']})",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
