"""Train: a run driven by this process, on the running cluster or on one that is started for this run only.

Train walk: cluster.cli.training -> [train.py] -> recipe_code.py, cluster.local.connect -> training.run.driver
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from cluster.audited_registry import AuditedRegistry
from cluster.local.connect import connect
from cluster.local.running_cluster import Cluster, exclusive_lock, find_cluster, reject_run_cluster
from cluster.local.signals import interrupt_on_termination, run_uninterruptible
from cluster.local.start import start_cluster, stop_cluster
from cluster.recipe_code import RecipeCode, collect_code
from cluster.settings import Settings
from training.run.options import RunOptions

if TYPE_CHECKING:
    from training.recipe.spec import Recipe
    from training.run.driver import FinishedRun, RunResult
    from training.run.reproduction import Reproduction

Result = TypeVar("Result")


def train(
    settings: Settings,
    name: str,
    overrides: list[str],
    options: RunOptions,
    console: Console,
    *,
    resume: str | None = None,
) -> "RunResult":
    """Train a recipe and publish it; a cluster that was started for the run is stopped after it, however it ends.

    Args:
        settings: of the cluster.
        name: of a ready recipe, or the path of a .py file.
        overrides: `key=value`, applied to the recipe.
        options: how to run it.
        console: shows progress.
        resume: the run to resume, whose recipe is taken instead of `name`.
    """
    from training.recipe.load import load_recipe, override_recipe
    from training.registry.model_registry import Registry
    from training.registry.runs import RunHistory

    run = None
    if resume:
        history = RunHistory(Registry(settings))
        run = history.find_resumable(resume)
        name = run.origin
        if name.endswith(".py"):
            sys.path.insert(0, str(Path(name).resolve().parent))
        recipe = history.load_recipe(run)
    else:
        recipe = override_recipe(load_recipe(name), overrides)
    origin = str(Path(name).resolve()) if name.endswith(".py") else name

    def drive() -> "RunResult":
        from training.run import driver
        from training.run.progress_display import ProgressDisplay

        def publish(finished: "FinishedRun") -> "RunResult":
            return driver.publish_bundle(replace(finished, registry=AuditedRegistry(settings)))

        with ProgressDisplay(recipe, console) as display:
            return driver.run_training(
                recipe, settings, publish, options=options, resume=run, origin=origin, on_message=display.show
            )

    from deployments.access.audit.log import AuditLog
    from training.run.preflight import check_sources

    check_sources(recipe)
    after = {"origin": origin, "overrides": overrides} | ({"resume": run.name} if run else {})
    with AuditLog.open(settings).record("train", recipe.name, after=after) as change:
        result = _run_on_cluster(settings, recipe, origin, console, drive, options)
        change.after |= {"published": str(result.version)}
    return result


def reproduce(settings: Settings, reference: str, console: Console) -> "Reproduction":
    """Train a published version's own recipe again, with as many workers, and compare scores and weights.

    Nothing is published; the run's record stays.
    """
    from training.registry.model_registry import Registry
    from training.run.preflight import check_sources
    from training.run.reproduction import compare_with_version, load_training_recipe

    registry = Registry(settings)
    version = registry.resolve(reference)
    recipe, options, origin = load_training_recipe(registry, version)
    check_sources(recipe)

    def drive() -> "Reproduction":
        from training.run import driver
        from training.run.progress_display import ProgressDisplay

        with ProgressDisplay(recipe, console) as display:
            return driver.run_training(
                recipe,
                settings,
                partial(compare_with_version, version),
                options=options,
                origin=origin,
                on_message=display.show,
            )

    return _run_on_cluster(settings, recipe, origin, console, drive, options)


def _run_on_cluster(
    settings: Settings,
    recipe: "Recipe",
    origin: str,
    console: Console,
    drive: Callable[[], Result],
    options: RunOptions,
) -> Result:
    """Drive a run on the running cluster, or on one started for it."""
    interrupt_on_termination()
    code = collect_code(recipe, origin)
    if code:
        console.print(code.describe(), highlight=False, markup=False, soft_wrap=True)
    cluster = find_cluster(settings)
    if cluster:
        reject_run_cluster(cluster)
        return _run_connected(settings, cluster, code, drive, options)
    try:
        with (
            exclusive_lock(settings, lambda status: console.print(status, highlight=False)),
            console.status("starting Ray for this run; `shoal up` keeps a cluster running"),
        ):
            cluster = start_cluster(settings, for_run=True)
        return _run_connected(settings, cluster, code, drive, options)
    finally:
        run_uninterruptible(lambda: stop_cluster(settings))


def _run_connected(
    settings: Settings, cluster: Cluster, code: RecipeCode | None, drive: Callable[[], Result], options: RunOptions
) -> Result:
    import ray

    with code.staged() if code else nullcontext() as folder:
        connect(settings, cluster, folder)
    try:
        options.reject_missing_gpus(ray.cluster_resources().get("GPU", 0), autoscales=cluster.autoscales)
        return drive()
    finally:
        ray.shutdown()
