"""`shoal train`: a run whose driver is this process, on the running cluster or on one brought up for it alone."""

from pathlib import Path

from rich.console import Console

from cluster import lifecycle
from cluster.settings import Settings
from training.run import Outcome


def here(
    settings: Settings, name: str, overrides: list[str], workers: int | None, gpus: bool, console: Console
) -> Outcome:
    """Train a recipe and publish it; what was started for the run is stopped after it, however it ends."""
    # Recipes import torch and training imports Ray: after the command line is known to be sound.
    from training.recipe import load_recipe, override

    recipe = override(load_recipe(name), overrides)
    cluster = lifecycle.find(settings)
    if cluster:
        lifecycle.refuse_private(cluster)
        return _run(settings, cluster, recipe, name, workers, gpus, console)
    lifecycle.interrupt_on_termination()
    try:
        with lifecycle.alone(settings), console.status("starting Ray for this run; `shoal up` keeps one running"):
            cluster = lifecycle.up(settings, for_run=True)
        return _run(settings, cluster, recipe, name, workers, gpus, console)
    finally:
        lifecycle.uninterrupted(lambda: lifecycle.down(settings))


def _run(settings, cluster, recipe, name, workers, gpus, console) -> Outcome:  # type: ignore[no-untyped-def]
    working_dir = Path(name).resolve().parent if name.endswith(".py") else None
    lifecycle.connect(settings, cluster, working_dir)
    import ray

    from training.progress import TrainingProgress
    from training.run import train

    try:
        with TrainingProgress(recipe, console) as progress:
            return train(recipe, settings, workers=workers, gpus=gpus, on_report=progress.show)
    finally:
        ray.shutdown()
