"""MLflow store: every write of the registry, and the reads of stores other than a local SQLite file.

The one file that imports MLflow, and the registry imports it on first use: `from mlflow import MlflowClient` takes 1.4
to 3 s on 2 cores, because any module of mlflow-skinny 3.17 runs mlflow/__init__.py, which imports pandas, FastAPI and
MLflow's GenAI and tracing modules; no setting skips them.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities import Run as MlflowRun
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from training.bundle.manifest import PROVENANCE_FILE, Manifest
from training.errors import StoreUnavailable, UserError
from training.registry.entities import (
    DIGEST_TAG,
    DRIVER_TAG,
    EXPERIMENT,
    IMPORTED_PARAM,
    MAX_RUNS,
    ORIGIN_TAG,
    RECIPE_FILE,
    Run,
    Version,
    make_run,
)
from training.registry.opening import DATABASE_URIS, check_database, lock_store, new_sqlite_file
from training.registry.process_identity import ProcessIdentity
from training.settings import TrainingSettings, mask_passwords

Item = TypeVar("Item")
EndStatus = Literal["FINISHED", "FAILED", "KILLED"]

REGISTRY_VARIABLE = "SHOAL_REGISTRY_URI"
# MLflow's limit is 6000 characters.
MAX_PARAM_LENGTH = 6000

# A new store logs each of its schema migrations.
for verbose_logger in ("alembic", "mlflow"):
    logging.getLogger(verbose_logger).setLevel(logging.WARNING)


class MlflowStore:
    """Shoal's runs, models and versions in one MLflow store."""

    def __init__(self, settings: TrainingSettings) -> None:
        """Open the store; a new SQLite file and Shoal's experiment are created.

        Raises:
            UserError: its URI is none, or its driver is not installed.
            StoreUnavailable: it cannot be opened.
        """
        is_server = settings.registry.startswith(("http://", "https://"))
        if not is_server:
            check_database(settings.registry, REGISTRY_VARIABLE)
        artifacts = settings.artifacts if "://" in settings.artifacts else Path(settings.artifacts).as_uri()
        try:
            with lock_store(settings.registry, "tables"):
                with new_sqlite_file(settings.registry) as new_uri:
                    if new_uri != settings.registry:
                        MlflowClient(new_uri, new_uri).search_experiments(max_results=1)
                self.client = MlflowClient(settings.registry, settings.registry)
                self._experiment_id = self._ensure_experiment(artifacts)
        except MlflowException as error:
            registry = f"the registry {settings.registry} ({REGISTRY_VARIABLE})"
            remedy = f"start its server, or correct {REGISTRY_VARIABLE}" if is_server else f"use {DATABASE_URIS}"
            reason = " ".join(error.message.split())
            raise StoreUnavailable(mask_passwords(f"{registry} cannot be opened: {reason}; {remedy}")) from error

    def _ensure_experiment(self, artifacts: str) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment:
            return str(experiment.experiment_id)
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=artifacts))

    def start_run(
        self, name: str, params: Mapping[str, object], *, recipe: Mapping[str, object] | None = None, origin: str = ""
    ) -> str:
        """Create a run with its parameters, and its recipe as a file; returns its id."""
        tags = {DRIVER_TAG: str(ProcessIdentity.current())} | ({ORIGIN_TAG: origin} if origin else {})
        run_id = str(self.client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id)
        self.client.log_batch(
            run_id, params=[Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in params.items()]
        )
        if recipe is not None:
            self.client.log_dict(run_id, dict(recipe), RECIPE_FILE)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one epoch."""
        now_ms = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(key, value, now_ms, step) for key, value in metrics.items()])

    def reopen_run(self, run_id: str) -> None:
        """Set an ended run to RUNNING, driven by this process."""
        self.client.set_tag(run_id, DRIVER_TAG, str(ProcessIdentity.current()))
        self.client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: EndStatus) -> None:
        """Set a run's final status and its end time."""
        self.client.set_terminated(run_id, status)

    def create_version(self, manifest: Manifest, folder: Path, run_id: str, provenance: bytes | None) -> int:
        """Copy a bundle's folder into a run's artifacts, then create a version of it; returns its number.

        Args:
            manifest: of the bundle.
            folder: of the bundle.
            run_id: of the run.
            provenance: content of the bundle's PROVENANCE_FILE; None for none.
        """
        name, summary = manifest.name, manifest.summary
        self.client.log_artifacts(run_id, str(folder), "bundle")
        if provenance is not None:
            self.client.log_text(run_id, provenance.decode(), f"bundle/{PROVENANCE_FILE}")
        try:
            self.client.create_registered_model(name, description=summary)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.client.create_model_version(
            name,
            source=f"{self.client.get_run(run_id).info.artifact_uri}/bundle",
            run_id=run_id,
            tags={DIGEST_TAG: manifest.digest},
            description=summary,
        )
        return int(version.version)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version.

        Raises:
            UserError: the alias is not a valid one.
        """
        if alias.isdecimal():
            raise UserError(f"{alias!r} cannot be an alias: a number is a version; use a word, as champion")
        try:
            self.client.set_registered_model_alias(name, alias, str(version))
        except MlflowException as error:
            raise UserError(f"{alias!r} cannot be an alias: {error.message}") from error

    def delete_version(self, name: str, version: int) -> None:
        """Delete the record of a version."""
        self.client.delete_model_version(name, str(version))

    def list_versions(self, name: str | None = None) -> list[Version]:
        """All versions of a model, or of all models; ordered by name, newest first."""
        # MLflow's filters cannot quote a quote, which names of other clients' models may hold.
        filter_string = None if name is None or "'" in name or not name else f"name = '{name}'"
        versions = _fetch_all_pages(lambda token: self.client.search_model_versions(filter_string, page_token=token))
        if name is not None:
            versions = [version for version in versions if version.name == name]
        names = {version.name for version in versions}
        aliases = {model: self.client.get_registered_model(model).aliases for model in names}
        return sorted(
            (_to_version(version, aliases[version.name]) for version in versions),
            key=lambda version: (version.name, -version.version),
        )

    def list_runs(self) -> list[Run]:
        """The newest MAX_RUNS training runs, newest first, without imports."""
        runs = self.client.search_runs(
            [self._experiment_id], max_results=MAX_RUNS, order_by=["attributes.start_time DESC"]
        )
        return [_to_run(run) for run in runs if IMPORTED_PARAM not in run.data.params]

    def get_run(self, run_id: str) -> Run | None:
        """The run with this id, an import too; None if there is none."""
        try:
            return _to_run(self.client.get_run(run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def _to_version(version: ModelVersion, aliases: Mapping[str, str]) -> Version:
    number = int(version.version)
    return Version(
        name=version.name,
        version=number,
        digest=version.tags.get(DIGEST_TAG, ""),
        uri=version.source or "",
        aliases=tuple(sorted(alias for alias, target in aliases.items() if int(target) == number)),
        run_id=version.run_id or "",
        created_s=(version.creation_timestamp or 0) / 1000,
    )


def _to_run(run: MlflowRun) -> Run:
    info = run.info
    return make_run(
        info.run_id,
        info.run_name,
        info.status,
        info.start_time,
        info.end_time,
        dict(run.data.params),
        dict(run.data.metrics),
        run.data.tags,
    )


def _fetch_all_pages(search: Callable[[str | None], PagedList[Item]]) -> list[Item]:
    """Follow MLflow's page tokens to the end."""
    items: list[Item] = []
    token: str | None = None
    while True:
        page = search(token)
        items += page
        token = page.token
        if not token:
            return items
