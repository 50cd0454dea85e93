"""Entities of the registry: a published version, a training run.

Knows nothing of where they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from training.recipe.spec import PRIMARY_METRICS
from training.registry.process_identity import ProcessIdentity

EXPERIMENT = "shoal"
CHAMPION = "champion"
DIGEST_TAG = "shoal.digest"
ORIGIN_TAG = "shoal.origin"
DRIVER_TAG = "shoal.driver"
RECIPE_FILE = "recipe.json"
IMPORTED_PARAM = "imported"
"""A parameter of the runs that hold imported bundles; they are not training runs."""

MAX_RUNS = 1000


@dataclass(frozen=True)
class Version:
    """One published bundle.

    Attributes:
        name: of the registered model.
        version: 1, 2, ... in order of publication.
        digest: of its manifest; a replica refuses any other content.
        uri: of its folder.
        aliases: names that point at it now.
        run_id: the MLflow run that holds its files.
        created_s: seconds since the epoch.
    """

    name: str
    version: int
    digest: str
    uri: str
    aliases: tuple[str, ...]
    run_id: str
    created_s: float

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        run_id: MLflow's.
        name: its name, unique.
        status: RUNNING, FINISHED, FAILED or KILLED; a run whose driver has ended on this machine is KILLED.
        started_s: seconds since the epoch.
        seconds: how long it took; None while it runs.
        params: the recipe, flat.
        metrics: the last value of each.
        origin: how its recipe was named on the command line.
        driver: the process that drives it, or drove it last; None if that was not recorded.
    """

    run_id: str
    name: str
    status: str
    started_s: float
    seconds: float | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    origin: str
    driver: ProcessIdentity | None

    @property
    def score(self) -> str:
        """The test score by the primary metric of its task, else the last validation score; empty if it has none."""
        metric = PRIMARY_METRICS.get(self.params.get("task", ""), "")
        for split in ("test", "validation"):
            value = self.metrics.get(f"{split}_{metric}")
            if value is not None:
                return f"{split} {metric.replace('_', ' ')} {value:.4f}"
        return ""


def make_run(
    run_id: str,
    name: str,
    status: str,
    start_ms: int,
    end_ms: int | None,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> Run:
    """Build a run's record from what MLflow's store holds; times in milliseconds since the epoch."""
    driver = ProcessIdentity.parse(tags[DRIVER_TAG]) if tags.get(DRIVER_TAG) else None
    return Run(
        run_id=run_id,
        name=name,
        status="KILLED" if status == "RUNNING" and driver and driver.has_ended() else status,
        started_s=start_ms / 1000,
        seconds=(end_ms - start_ms) / 1000 if end_ms else None,
        params=params,
        metrics=metrics,
        origin=tags.get(ORIGIN_TAG, ""),
        driver=driver,
    )


class RegistryReader(Protocol):
    """Reads the registry's store."""

    def list_versions(self, name: str | None = None) -> list[Version]:
        """All versions of a model, or of all models; ordered by name, newest first."""

    def list_runs(self) -> list[Run]:
        """The newest MAX_RUNS training runs, newest first, without imports."""

    def get_run(self, run_id: str) -> Run | None:
        """The run with this id, an import too; None if there is none."""
