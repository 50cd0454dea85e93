"""`shoal train`: a run whose driver is this process, on the running cluster or on one brought up for it alone."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cluster.local import lifecycle
from cluster.settings import Settings
from training.recipe.spec import Recipe
from training.registry.model_registry import Version
from training.run.driver import RunResult
from training.run.options import RunOptions

Made = TypeVar("Made")


@dataclass(frozen=True)
class Reproduction:
    """A version and what its recipe gives today; scores are (metric, before, after)."""

    before: Version
    after: Version
    scores: list[tuple[str, float, float]]
    verdict: str


def run_locally(
    settings: Settings,
    name: str,
    overrides: list[str],
    options: RunOptions,
    console: Console,
    *,
    resume: str | None = None,
) -> RunResult:
    """Train a recipe and publish it; what was started for the run is stopped after it, however it ends."""
    # Recipes import torch and training imports Ray: after the command line is known to be sound.
    from training.recipe.load import load_recipe, override_recipe
    from training.registry.model_registry import Registry
    from training.registry.runs import RunHistory
    from training.run.driver import train

    run = None
    if resume:
        runs = RunHistory(Registry(settings))
        run = runs.find_resumable(resume)
        name = run.origin
        if name.endswith(".py"):
            sys.path.insert(0, str(Path(name).resolve().parent))
        recipe = runs.load_recipe(run)
    else:
        recipe = override_recipe(load_recipe(name), overrides)
    origin = str(Path(name).resolve()) if name.endswith(".py") else name

    def go() -> RunResult:
        from training.run.progress_display import ProgressDisplay

        with ProgressDisplay(recipe, console) as progress:
            return train(recipe, settings, options=options, resume=run, origin=origin, on_message=progress.show)

    return _run_on_cluster(settings, origin, _data_paths(recipe), console, go)


def reproduce(settings: Settings, reference: str, console: Console) -> Reproduction:
    """Train a published version's own recipe again, with as many workers, and compare scores and weights."""
    from training.registry.model_registry import Registry
    from training.run.driver import train
    from training.run.progress_display import ProgressDisplay
    from training.run.reproduction import compare_versions, load_training_recipe

    registry = Registry(settings)
    before = registry.resolve(reference)
    recipe, options, origin = load_training_recipe(registry, before)

    def go() -> RunResult:
        with ProgressDisplay(recipe, console) as progress:
            return train(recipe, settings, options=options, origin=origin, on_message=progress.show)

    outcome = _run_on_cluster(settings, origin, _data_paths(recipe), console, go)
    scores, verdict = compare_versions(registry, before, outcome.version)
    return Reproduction(before, outcome.version, scores, verdict)


def _data_paths(recipe: Recipe) -> tuple[Path, ...]:
    """Files that a recipe reads where they are: they do not travel with it."""
    path = getattr(recipe.data, "path", None)
    return (Path(path),) if path and "://" not in path else ()


def _run_on_cluster(
    settings: Settings, origin: str, rows: tuple[Path, ...], console: Console, go: Callable[[], Made]
) -> Made:
    """Do it on the cluster that runs, or on one that is up for it alone."""
    lifecycle.interrupt_on_termination()
    cluster = lifecycle.find_cluster(settings)
    if cluster:
        lifecycle.reject_run_cluster(cluster)
        return _run_connected(settings, cluster, origin, rows, go)
    try:
        with (
            lifecycle.exclusive_lock(settings),
            console.status("starting Ray for this run; `shoal up` keeps one running"),
        ):
            cluster = lifecycle.start_cluster(settings, for_run=True)
        return _run_connected(settings, cluster, origin, rows, go)
    finally:
        lifecycle.run_uninterruptible(lambda: lifecycle.stop_cluster(settings))


def _run_connected(
    settings: Settings, cluster: lifecycle.Cluster, origin: str, rows: tuple[Path, ...], go: Callable[[], Made]
) -> Made:
    lifecycle.connect(settings, cluster, Path(origin).parent if origin.endswith(".py") else None, excluded=rows)
    import ray

    try:
        return go()
    finally:
        ray.shutdown()
