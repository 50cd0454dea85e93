"""Reproduction: trains a published version's recipe again and compares the result with the version.

Train walk: cluster.train -> [reproduction.py] -> training.bundle.load
The result is compared and not published: a bare `shoal deploy NAME` goes on serving the version that somebody trained.
"""

from dataclasses import dataclass

import torch

from training.bundle.load import load_bundle
from training.errors import UserError
from training.recipe.spec import Recipe
from training.registry.entities import IMPORTED_PARAM, Version
from training.registry.model_registry import Registry
from training.run.driver import FinishedRun
from training.run.options import RunOptions, WorkerCount


@dataclass(frozen=True)
class Reproduction:
    """A version, and what its recipe gives today.

    Attributes:
        version: which was trained again.
        run: name of the run that did; it published nothing.
        scores: (metric, before, after) of each that both have.
        verdict: one line.
    """

    version: Version
    run: str
    scores: list[tuple[str, float, float]]
    verdict: str


def load_training_recipe(registry: Registry, version: Version) -> tuple[Recipe, RunOptions, str]:
    """Load the recipe of a version, the options with as many workers as it had, and the recipe's origin.

    A recipe names functions that training imports and calls: one that came in with a bundle could name any. So only
    what was trained with this registry is trained again.

    Raises:
        UserError: the version was not trained by Shoal, or was imported.
    """
    run = registry.reader.get_run(version.run_id)
    if run is None or IMPORTED_PARAM in run.params:
        raise UserError(
            f"{version} was imported, and the recipe in its bundle names functions that training would call; "
            "if you know it, train the recipe itself: shoal train RECIPE"
        )
    manifest = registry.load_manifest(version)
    if manifest.recipe is None:
        raise UserError(f"{version} was not trained by Shoal: its bundle holds no recipe")
    recipe = Recipe.model_validate(manifest.recipe)
    workers = int(str(manifest.training.get("workers", recipe.workers)))
    return recipe, RunOptions(workers=WorkerCount(bounds=(workers, workers))), run.origin


def compare_with_version(version: Version, finished: FinishedRun) -> Reproduction:
    """End a run by comparing its bundle with a version of the same recipe."""
    scores, verdict = _compare(version, finished)
    return Reproduction(version, finished.name, scores, verdict)


def _compare(version: Version, finished: FinishedRun) -> tuple[list[tuple[str, float, float]], str]:
    before = load_bundle(finished.registry.fetch_bundle(version), version.digest)
    after = load_bundle(finished.bundle)
    old, new = before.manifest, after.manifest
    metrics = [(name, value, new.metrics[name]) for name, value in old.metrics.items() if name in new.metrics]
    if old.dataset and new.dataset and old.dataset.fingerprint != new.dataset.fingerprint:
        return metrics, "the data is not the same: its fingerprint has changed"
    old_state, new_state = before.net.state_dict(), after.net.state_dict()
    if all(torch.equal(old_state[key], new_state[key]) for key in old_state):
        return metrics, "reproduced: every weight is the same, bit for bit"
    max_difference = max(float((old_state[key].double() - new_state[key].double()).abs().max()) for key in old_state)
    interval = old.intervals.get(old.primary_metric)
    if interval and interval.low <= new.metrics[old.primary_metric] <= interval.high:
        return metrics, f"reproduced within the 95% interval; weights differ by up to {max_difference:.2g}"
    return metrics, f"not reproduced: {old.primary_metric} is outside the 95% interval of {version}"
