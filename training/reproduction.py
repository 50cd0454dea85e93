"""Reproduction: a published version's recipe, trained again, beside the version itself."""

import torch

from training import bundle
from training.errors import Mistake
from training.options import Options, Workers
from training.recipe import Recipe
from training.registry import ORIGIN_TAG, Registry, Version


def recipe_of(registry: Registry, version: Version) -> tuple[Recipe, Options, str]:
    """The recipe that made a version, the workers that ran it, and where it came from.

    Raises:
        Mistake: the version was not trained by Shoal.
    """
    manifest = registry.manifest(version)
    if manifest.recipe is None:
        raise Mistake(f"{version} was not trained by Shoal: its bundle holds no recipe")
    recipe = Recipe.model_validate(manifest.recipe)
    workers = int(str(manifest.training.get("workers", recipe.workers)))
    origin = registry.client.get_run(version.run_id).data.tags.get(ORIGIN_TAG, "")
    return recipe, Options(workers=Workers(bounds=(workers, workers))), origin


def compare(registry: Registry, before: Version, after: Version) -> tuple[list[tuple[str, float, float]], str]:
    """Scores of both, and what they and the weights say."""
    old, new = registry.manifest(before), registry.manifest(after)
    scores = [(name, value, new.metrics[name]) for name, value in old.metrics.items() if name in new.metrics]
    if old.dataset and new.dataset and old.dataset.fingerprint != new.dataset.fingerprint:
        return scores, "the data is not the same: its fingerprint has changed"
    weights = (bundle.load(registry.fetch(each), each.digest).net.state_dict() for each in (before, after))
    one, other = weights
    if all(torch.equal(one[key], other[key]) for key in one):
        return scores, "reproduced: every weight is the same, bit for bit"
    furthest = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
    span = old.intervals.get(old.headline)
    if span and span.low <= new.metrics[old.headline] <= span.high:
        return scores, f"reproduced within the 95% interval; weights differ by up to {furthest:.2g}"
    return scores, f"not reproduced: {old.headline} is outside the 95% interval of {before}"
