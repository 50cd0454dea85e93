"""Reproduction: a published version's recipe, trained again, beside the version itself."""

import torch

from training.bundle.load import load_bundle
from training.errors import UserError
from training.recipe.spec import Recipe
from training.registry.model_registry import ORIGIN_TAG, Registry, Version
from training.run.options import RunOptions, WorkerCount


def load_training_recipe(registry: Registry, version: Version) -> tuple[Recipe, RunOptions, str]:
    """The recipe that made a version, the workers that ran it, and where it came from.

    Raises:
        Mistake: the version was not trained by Shoal.
    """
    manifest = registry.load_manifest(version)
    if manifest.recipe is None:
        raise UserError(f"{version} was not trained by Shoal: its bundle holds no recipe")
    recipe = Recipe.model_validate(manifest.recipe)
    workers = int(str(manifest.training.get("workers", recipe.workers)))
    origin = registry.client.get_run(version.run_id).data.tags.get(ORIGIN_TAG, "")
    return recipe, RunOptions(workers=WorkerCount(bounds=(workers, workers))), origin


def compare_versions(registry: Registry, before: Version, after: Version) -> tuple[list[tuple[str, float, float]], str]:
    """Scores of both, and what they and the weights say."""
    old, new = registry.load_manifest(before), registry.load_manifest(after)
    scores = [(name, value, new.metrics[name]) for name, value in old.metrics.items() if name in new.metrics]
    if old.dataset and new.dataset and old.dataset.fingerprint != new.dataset.fingerprint:
        return scores, "the data is not the same: its fingerprint has changed"
    weights = (load_bundle(registry.fetch_bundle(each), each.digest).net.state_dict() for each in (before, after))
    one, other = weights
    if all(torch.equal(one[key], other[key]) for key in one):
        return scores, "reproduced: every weight is the same, bit for bit"
    furthest = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
    span = old.intervals.get(old.primary_metric)
    if span and span.low <= new.metrics[old.primary_metric] <= span.high:
        return scores, f"reproduced within the 95% interval; weights differ by up to {furthest:.2g}"
    return scores, f"not reproduced: {old.primary_metric} is outside the 95% interval of {before}"
