"""Trains as `shoal train` does on the running cluster; prints JSON lines as torchrun_peer.py does, one a second.

python shoal_run.py RECIPE SECONDS [KEY=VALUE ...]
"""

import json
import sys
from typing import Any

from cluster.local.connect import connect
from cluster.local.ray_environment import set_ray_environment
from cluster.local.running_cluster import require_cluster
from cluster.settings import load_settings
from training.recipe.load import load_recipe, override_recipe


def main(name: str, seconds: str, overrides: list[str]) -> None:
    """Train until the time is up."""
    settings = load_settings()
    set_ray_environment(settings)
    recipe = override_recipe(load_recipe(name), [*overrides, f"stop.seconds={seconds}"])
    connect(settings, require_cluster(settings))
    from training.run.driver import train

    step = 0

    def print_progress(message: dict[str, Any]) -> None:
        nonlocal step
        if message["kind"] == "progress" and message["rank"] == 0:
            rows = (message["step"] - step) * recipe.batch_size
            step = message["step"]
            kind = "first step" if step == 1 else "steps"
            values = {"at_s": message["at_s"], "rows": rows, "seconds": rows / message["rows_per_s"]}
            print(json.dumps({"kind": kind, "epoch": message["epoch"]} | values), flush=True)

    train(recipe, settings, on_message=print_progress)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
