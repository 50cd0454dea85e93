"""Completion: the names that a shell offers where a command takes a recipe or a model.

A shell waits for it at each press of Tab: it reads the zoo's folder and the registry's SQLite file, and imports neither
torch nor MLflow; of a registry elsewhere it offers nothing. Where a setting is wrong, it offers nothing either.
"""

import sqlite3

from cluster.settings import load_settings
from training.errors import UserError


def complete_recipes(incomplete: str) -> list[str]:
    """Names of ready recipes that begin so; the shell completes paths by itself where there are none."""
    from training.recipe.load import list_builtin_recipes

    return [name for name in list_builtin_recipes() if name.startswith(incomplete)]


def complete_models(incomplete: str) -> list[str]:
    """Names of published models that begin so."""
    from training.registry.sqlite_reader import open_reader

    try:
        reader = open_reader(load_settings().registry)
        versions = reader.list_versions() if reader else []
    except (UserError, sqlite3.Error):
        return []
    return sorted({version.name for version in versions if version.name.startswith(incomplete)})
