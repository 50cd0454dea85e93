"""`shoal train`: a run whose driver is this process, on the running cluster or on one brought up for it alone."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cluster import lifecycle
from cluster.settings import Settings
from training.options import Options
from training.recipe import Recipe
from training.registry import Version
from training.run import Outcome

Made = TypeVar("Made")


@dataclass(frozen=True)
class Reproduced:
    """A version and what its recipe gives today; scores are (metric, before, after)."""

    before: Version
    after: Version
    scores: list[tuple[str, float, float]]
    verdict: str


def here(
    settings: Settings,
    name: str,
    overrides: list[str],
    options: Options,
    console: Console,
    *,
    resume: str | None = None,
) -> Outcome:
    """Train a recipe and publish it; what was started for the run is stopped after it, however it ends."""
    # Recipes import torch and training imports Ray: after the command line is known to be sound.
    from training.recipe import load_recipe, override
    from training.registry import Registry
    from training.run import train
    from training.runs import Runs

    run = None
    if resume:
        runs = Runs(Registry(settings))
        run = runs.unfinished(resume)
        name = run.origin
        if name.endswith(".py"):
            sys.path.insert(0, str(Path(name).resolve().parent))
        recipe = runs.recipe(run)
    else:
        recipe = override(load_recipe(name), overrides)
    origin = str(Path(name).resolve()) if name.endswith(".py") else name

    def go() -> Outcome:
        from training.progress import TrainingProgress

        with TrainingProgress(recipe, console) as progress:
            return train(recipe, settings, options=options, resume=run, origin=origin, on_message=progress.show)

    return _on_a_cluster(settings, origin, _rows(recipe), console, go)


def reproduce(settings: Settings, reference: str, console: Console) -> Reproduced:
    """Train a published version's own recipe again, with as many workers, and compare scores and weights."""
    from training.progress import TrainingProgress
    from training.registry import Registry
    from training.reproduction import compare, recipe_of
    from training.run import train

    registry = Registry(settings)
    before = registry.resolve(reference)
    recipe, options, origin = recipe_of(registry, before)

    def go() -> Outcome:
        with TrainingProgress(recipe, console) as progress:
            return train(recipe, settings, options=options, origin=origin, on_message=progress.show)

    outcome = _on_a_cluster(settings, origin, _rows(recipe), console, go)
    scores, verdict = compare(registry, before, outcome.version)
    return Reproduced(before, outcome.version, scores, verdict)


def _rows(recipe: Recipe) -> tuple[Path, ...]:
    """Files that a recipe reads where they are: they do not travel with it."""
    path = getattr(recipe.data, "path", None)
    return (Path(path),) if path and "://" not in path else ()


def _on_a_cluster(
    settings: Settings, origin: str, rows: tuple[Path, ...], console: Console, go: Callable[[], Made]
) -> Made:
    """Do it on the cluster that runs, or on one that is up for it alone."""
    lifecycle.interrupt_on_termination()
    cluster = lifecycle.find(settings)
    if cluster:
        lifecycle.refuse_private(cluster)
        return _connected(settings, cluster, origin, rows, go)
    try:
        with lifecycle.alone(settings), console.status("starting Ray for this run; `shoal up` keeps one running"):
            cluster = lifecycle.up(settings, for_run=True)
        return _connected(settings, cluster, origin, rows, go)
    finally:
        lifecycle.uninterrupted(lambda: lifecycle.down(settings))


def _connected(
    settings: Settings, cluster: lifecycle.Cluster, origin: str, rows: tuple[Path, ...], go: Callable[[], Made]
) -> Made:
    lifecycle.connect(settings, cluster, Path(origin).parent if origin.endswith(".py") else None, leave=rows)
    import ray

    try:
        return go()
    finally:
        ray.shutdown()
