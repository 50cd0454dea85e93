"""Run history: the training runs of a registry, and which of them can be resumed.

Train walk: cluster.train -> [runs.py] -> entities.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from training.errors import UserError, summarize_validation_error
from training.recipe.spec import Recipe
from training.registry import storage
from training.registry.entities import RECIPE_FILE, Run
from training.registry.model_registry import Registry

MAX_SUGGESTIONS = 10


class RunHistory:
    """The training runs of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def list_runs(self) -> list[Run]:
        """Training runs, newest first; imported bundles are not training runs."""
        return self._registry.reader.list_runs()

    def find_run(self, reference: str) -> Run:
        """Find a run by its name, its id, or a prefix that only its name has.

        Raises:
            UserError: there is none, or more than one.
        """
        runs = self.list_runs()
        matches = [run for run in runs if reference in (run.name, run.run_id)]
        matches = matches or [run for run in runs if run.name.startswith(reference)]
        if len(matches) == 1:
            return matches[0]
        names = ", ".join(run.name for run in (matches or runs)[:MAX_SUGGESTIONS]) or "none"
        if matches:
            raise UserError(f"{len(matches)} runs have names that begin with {reference!r}: {names}; give more of it")
        raise UserError(f"no run {reference!r}; newest: {names}")

    def find_resumable(self, reference: str) -> Run:
        """Find a run that can be resumed.

        Raises:
            UserError: it has finished, or still runs on this machine. Of a driver on another machine nothing is known
                here; `progress_channel.open_channel` refuses a second driver on the same cluster.
        """
        run = self.find_run(reference)
        driver = run.driver if run.status == "RUNNING" else None
        if driver and driver.is_alive() and driver.pid != os.getpid():
            raise UserError(f"run {run.name} still runs, driven by process {driver.pid}; stop it first, or wait")
        if run.status == "FINISHED":
            raise UserError(f"run {run.name} has finished and published; train its recipe again for a new version")
        return run

    def delete_checkpoints(self, reference: str) -> str:
        """Delete the checkpoints of a run that has ended; returns its name.

        Raises:
            UserError: it still runs, or has no checkpoints.
        """
        run = self.find_run(reference)
        if run.status == "RUNNING":
            raise UserError(f"run {run.name} is running; stop it first")
        try:
            storage.delete_folder(f"{self._registry.run_storage}/{run.name}")
        except FileNotFoundError:
            raise UserError(f"run {run.name} has no checkpoints") from None
        return run.name

    def load_recipe(self, run: Run) -> Recipe:
        """Load the recipe that a run was started with.

        Raises:
            UserError: its file is missing, or an earlier Shoal wrote it.
        """
        with TemporaryDirectory() as folder:
            try:
                path = self._registry.client.download_artifacts(run.run_id, RECIPE_FILE, folder)
            except Exception as error:
                raise UserError(f"{RECIPE_FILE} of run {run.name} cannot be read: {error}") from error
            try:
                return Recipe.model_validate(json.loads(Path(path).read_text()))
            except ValidationError as error:
                raise UserError(
                    f"{RECIPE_FILE} of run {run.name} is of another Shoal ({summarize_validation_error(error)}); "
                    "train its recipe again"
                ) from error
