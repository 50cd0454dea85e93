"""Reproduce runs what a recipe names, so it takes none that came in with a bundle."""

from pathlib import Path

import pytest

from tests.small_bundles import rewrite_manifest
from training.errors import UserError
from training.registry.model_registry import Registry
from training.run.reproduction import load_training_recipe
from training.settings import TrainingSettings


def test_the_recipe_of_an_imported_bundle_is_not_run(
    registry_settings: TrainingSettings, table_bundle: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    source = {"source": "os:system", "args": {"command": f"touch {marker}"}}
    recipe = {"name": "flowers", "task": "tabular-classification", "data": source, "net": source}
    rewrite_manifest(table_bundle, recipe=recipe)
    registry = Registry(registry_settings)
    version = registry.publish(table_bundle)

    with pytest.raises(UserError, match="was imported, and the recipe in its bundle names functions"):
        load_training_recipe(registry, version)
    assert not marker.exists()
