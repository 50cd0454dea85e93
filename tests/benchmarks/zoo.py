"""Every recipe, trained and scored: `make zoo`, or `python tests/benchmarks/zoo.py [--only A B] [--seeds N] [--json]`.

On a cluster of its own, with a SHOAL_HOME of its own, both gone afterwards. The last line with --json is one object:
{"recipes": [{"recipe", "metric", "score", "baseline", "seeds", "seconds"}, ...]}.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# A script's own folder comes first, where training.py hides the package of that name.
sys.path[0] = str(Path(__file__).parents[2])

from rich.console import Console
from rich.table import Table

from cluster.local import lifecycle
from cluster.settings import Settings
from tests.benchmarks.baselines import baseline
from training.recipe.load import list_builtin_recipes, load_recipe, override_recipe
from training.recipe.spec import Recipe

# The least that each must reach, mean over three seeds; where less is better, the most.
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
    # The larger class has 0.526 of the test rows.
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
    """Train, score, print; returns 1 if a recipe misses its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=list_builtin_recipes(), metavar="RECIPE", choices=list_builtin_recipes()
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe, with seeds 0, 1, ...")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    console = Console(stderr=args.json)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="zoo-") as home:
        settings = Settings(home=Path(home), http_port=0, grpc_port=0, dashboard_port=0, ray_port=0)
        lifecycle.set_ray_environment(settings)
        try:
            with lifecycle.exclusive_lock(settings):
                cluster = lifecycle.start_cluster(settings)
            lifecycle.connect(settings, cluster)
            for name in args.only:
                found.append(_recipe(load_recipe(name), args.seeds, settings, console))
        finally:
            lifecycle.stop_cluster(settings)
    console.print(_table(found))
    if args.json:
        print(json.dumps({"recipes": found}))
    return int(any(not row["reached"] for row in found))


def _recipe(recipe: Recipe, seeds: int, settings: Settings, console: Console) -> dict[str, Any]:
    from training import tasks
    from training.run.driver import train

    task = tasks.task_class(recipe)
    method, reference = baseline(recipe)
    scores, seconds = [], []
    for seed in range(seeds):
        start = time.monotonic()
        outcome = train(override_recipe(recipe, [f"seed={seed}"]), settings)
        seconds.append(round(time.monotonic() - start, 1))
        scores.append(round(outcome.metrics[f"test_{task.metric}"], 4))
        console.print(
            f"{recipe.name}: seed {seed}: {task.metric} {scores[-1]:.4f} in {seconds[-1]:.0f} s", highlight=False
        )
    mean = statistics.mean(scores)
    return {
        "recipe": recipe.name,
        "metric": task.metric,
        "score": round(mean, 4),
        "bar": BARS[recipe.name],
        "reached": mean >= BARS[recipe.name] if task.higher_is_better else mean <= BARS[recipe.name],
        "baseline": round(reference, 4),
        "baseline_method": method,
        "seeds": scores,
        "seconds": seconds,
    }


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("recipe", "metric", "score", "bar", "seeds", "seconds", "baseline", box=None, pad_edge=False)
    for row in found:
        table.add_row(
            row["recipe"],
            row["metric"],
            f"[{'green' if row['reached'] else 'red'}]{row['score']:.4f}",
            f"{row['bar']:g}",
            ", ".join(f"{score:.4f}" for score in row["seeds"]),
            ", ".join(f"{s:.0f}" for s in row["seconds"]),
            f"{row['baseline']:.4f} ({row['baseline_method']})",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
