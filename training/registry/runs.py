"""Runs: what was trained, how it went, and what can go on; read from the registry's store."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Run as Kept

from training import tasks
from training.errors import UserError
from training.recipe.spec import Recipe
from training.registry import driver_process, storage
from training.registry.model_registry import DRIVER_TAG, ORIGIN_TAG, RECIPE_FILE, Registry

# MLflow gives no more at once.
MAX_RUNS = 1000


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        run_id: MLflow's.
        name: what people call it by.
        status: RUNNING, FINISHED, FAILED or KILLED; a run whose driver is gone from this machine was killed.
        started_s: seconds since the epoch.
        seconds: how long it took; None while it runs.
        params: the recipe, flat.
        metrics: the last of each.
        origin: how its recipe was named on the command line.
        driver: the process that drives it, or did last.
    """

    run_id: str
    name: str
    status: str
    started_s: float
    seconds: float | None
    params: dict[str, str]
    metrics: dict[str, float]
    origin: str
    driver: str

    @property
    def score(self) -> str:
        """The held-out score of its task, or the last validation score."""
        task = self.params.get("task", "")
        metric = tasks.primary_metric(task) if task else ""
        for part in ("test", "validation"):
            value = self.metrics.get(f"{part}_{metric}")
            if value is not None:
                return f"{part} {metric.replace('_', ' ')} {value:.4f}"
        return ""


class RunHistory:
    """The runs in one registry."""

    def __init__(self, registry: Registry) -> None:
        self._client, self._experiment, self._storage = registry.client, registry.experiment, registry.run_storage

    def list_runs(self) -> list[Run]:
        """Training runs, newest first; imports of finished bundles are none."""
        found = self._client.search_runs(
            [self._experiment], max_results=MAX_RUNS, order_by=["attributes.start_time DESC"]
        )
        return [_to_run(kept) for kept in found if "imported" not in kept.data.params]

    def find_run(self, reference: str) -> Run:
        """The run of this name, or id, or the only one whose name begins so.

        Raises:
            Mistake: there is none, or more than one.
        """
        runs = self.list_runs()
        exact = [run for run in runs if reference in (run.name, run.run_id)]
        found = exact or [run for run in runs if run.name.startswith(reference)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(run.name for run in (found or runs)[:10]) or "none"
        raise UserError(
            f"{len(found)} runs are called {reference!r}: {names}; give more of the name"
            if found
            else f"no run {reference!r}; newest: {names}"
        )

    def find_resumable(self, reference: str) -> Run:
        """The run that is to go on.

        Raises:
            Mistake: it has finished, or still runs on this machine. Of another machine's driver nothing is known here;
                `messages.inbox` refuses a second one on the same cluster.
        """
        run = self.find_run(reference)
        number = driver_process.living(run.driver) if run.status == "RUNNING" and run.driver else None
        if number and number != os.getpid():
            raise UserError(f"run {run.name} still runs, driven by process {number}; stop it first, or wait")
        if run.status == "FINISHED":
            raise UserError(f"run {run.name} has finished and published; train its recipe again for a new version")
        return run

    def delete_checkpoints(self, reference: str) -> str:
        """Remove what an ended run left in the store; returns its name.

        Raises:
            Mistake: it still runs, or left nothing.
        """
        run = self.find_run(reference)
        if run.status == "RUNNING":
            raise UserError(f"run {run.name} is running; stop it first")
        try:
            storage.delete_folder(f"{self._storage}/{run.name}")
        except FileNotFoundError:
            raise UserError(f"run {run.name} left no checkpoints") from None
        return run.name

    def load_recipe(self, run: Run) -> Recipe:
        """The recipe that a run was started with.

        Raises:
            Mistake: the run is older than this Shoal, or its files are gone.
        """
        with TemporaryDirectory() as folder:
            try:
                path = self._client.download_artifacts(run.run_id, RECIPE_FILE, folder)
            except Exception as error:
                raise UserError(f"run {run.name} has no {RECIPE_FILE} any more: {error}") from error
            return Recipe.model_validate(json.loads(Path(path).read_text()))


def _to_run(kept: Kept) -> Run:
    info, driven_by = kept.info, kept.data.tags.get(DRIVER_TAG, "")
    return Run(
        run_id=info.run_id,
        name=info.run_name,
        status="KILLED" if info.status == "RUNNING" and driver_process.gone(driven_by) else info.status,
        started_s=info.start_time / 1000,
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
        params=dict(kept.data.params),
        metrics=dict(kept.data.metrics),
        origin=kept.data.tags.get(ORIGIN_TAG, ""),
        driver=driven_by,
    )
