"""Reproduction: trains a published version's recipe again and compares the result with the version.

Train walk: cluster.train -> [reproduction.py] -> training.bundle.load
"""

import torch

from training.bundle.load import load_bundle
from training.errors import UserError
from training.recipe.spec import Recipe
from training.registry.entities import IMPORTED_PARAM, Version
from training.registry.model_registry import Registry
from training.run.options import RunOptions, WorkerCount


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


def compare_versions(registry: Registry, before: Version, after: Version) -> tuple[list[tuple[str, float, float]], str]:
    """Compare a version with its reproduction.

    Returns:
        The metrics that both have, as (name, before, after), and a verdict in one line.
    """
    old, new = registry.load_manifest(before), registry.load_manifest(after)
    metrics = [(name, value, new.metrics[name]) for name, value in old.metrics.items() if name in new.metrics]
    if old.dataset and new.dataset and old.dataset.fingerprint != new.dataset.fingerprint:
        return metrics, "the data is not the same: its fingerprint has changed"
    old_state, new_state = (
        load_bundle(registry.fetch_bundle(version), version.digest).net.state_dict() for version in (before, after)
    )
    if all(torch.equal(old_state[key], new_state[key]) for key in old_state):
        return metrics, "reproduced: every weight is the same, bit for bit"
    max_difference = max(float((old_state[key].double() - new_state[key].double()).abs().max()) for key in old_state)
    interval = old.intervals.get(old.primary_metric)
    if interval and interval.low <= new.metrics[old.primary_metric] <= interval.high:
        return metrics, f"reproduced within the 95% interval; weights differ by up to {max_difference:.2g}"
    return metrics, f"not reproduced: {old.primary_metric} is outside the 95% interval of {before}"
