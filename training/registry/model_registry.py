"""The registry: MLflow's, with what Shoal asks of it in Shoal's words.

Train walk:  bundle.py -> [registry.py: publish]
Deploy walk: cluster.rollout.reconcile -> [registry.py: resolve] -> deployments.applications -> deployments.models.replica
A version is a bundle kept as an artefact of the run that made it, pinned by the digest of its manifest. Nothing here is
ever on a request's path.
"""

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from training.bundle.load import verify_bundle
from training.bundle.manifest import Manifest
from training.errors import UserError
from training.registry import driver_process, storage
from training.settings import TrainingSettings, mask_passwords

Found = TypeVar("Found")

EXPERIMENT = "shoal"
CHAMPION = "champion"
DIGEST_TAG = "shoal.digest"
ORIGIN_TAG = "shoal.origin"
DRIVER_TAG = "shoal.driver"
RECIPE_FILE = "recipe.json"

# Schema upgrades of a new store are no news to a user.
for noisy in ("alembic", "mlflow"):
    logging.getLogger(noisy).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Version:
    """One published bundle.

    Attributes:
        name: of the registered model.
        version: 1, 2, ... in order of publication.
        digest: of its manifest; a replica refuses any other content.
        uri: where its folder is.
        aliases: names that point at it now.
        run_id: the MLflow run that made it.
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


class Registry:
    """Runs, models, versions and aliases in one MLflow store."""

    def __init__(self, settings: TrainingSettings) -> None:
        if settings.registry.startswith("sqlite:///"):
            Path(settings.registry.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._cache = settings.home / "cache"
        # Where runs keep their checkpoints until they have published.
        self.run_storage = f"{settings.artifacts}/runs"
        self._artifacts = settings.artifacts if "://" in settings.artifacts else Path(settings.artifacts).as_uri()
        try:
            self.client = MlflowClient(settings.registry, settings.registry)
            self.experiment = self._ensure_experiment()
        except MlflowException as error:
            raise UserError(
                mask_passwords(f"the registry at {settings.registry} does not answer: {error.message}")
            ) from error
        except ImportError as error:
            raise UserError(f"the registry's database needs a driver that is not installed: {error}") from error

    def start_run(
        self, name: str, params: Mapping[str, object], *, recipe: Mapping[str, object] | None = None, origin: str = ""
    ) -> str:
        """Open a run and note its parameters, and its whole recipe where it has one; returns its id."""
        tags = {DRIVER_TAG: driver_process.this()} | ({ORIGIN_TAG: origin} if origin else {})
        run = self.client.create_run(self.experiment, run_name=name, tags=tags)
        run_id = str(run.info.run_id)
        # MLflow's limit on a parameter's length.
        self.client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in params.items()])
        if recipe is not None:
            self.client.log_dict(run_id, dict(recipe), RECIPE_FILE)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Note one epoch's metrics."""
        now_ms = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(key, value, now_ms, step) for key, value in metrics.items()])

    def reopen_run(self, run_id: str) -> None:
        """Mark a run that had ended as running again, driven by this process."""
        self.client.set_tag(run_id, DRIVER_TAG, driver_process.this())
        self.client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Close a run."""
        self.client.set_terminated(run_id, status)

    def publish(self, folder: Path, run_id: str | None = None) -> Version:
        """Verify a bundle and make it the next version of the model that it names.

        The version is created after the last file is in place, so that no reader finds half of it. A model's first
        version becomes its champion.

        Args:
            folder: the bundle.
            run_id: the run that made it; None for a bundle from elsewhere, which gets a run of its own.

        Raises:
            BundleError: the bundle is not whole.
        """
        manifest = verify_bundle(folder)
        own_run = run_id is None
        run_id = run_id or self.start_run(f"import-{manifest.name}", {"imported": True})
        self.client.log_artifacts(run_id, str(folder), "bundle")
        first = manifest.name not in self.list_models()
        if self._find_registered(manifest.name) is None:
            with contextlib.suppress(MlflowException):  # another run published its first version in the same moment
                self.client.create_registered_model(manifest.name, description=manifest.summary)
        made = self.client.create_model_version(
            manifest.name,
            source=f"{self.client.get_run(run_id).info.artifact_uri}/bundle",
            run_id=run_id,
            tags={DIGEST_TAG: manifest.digest},
            description=manifest.summary,
        )
        if own_run:
            self.log_metrics(run_id, manifest.metrics, step=0)
            self.end_run(run_id, "FINISHED")
        if first:
            self.promote(manifest.name, int(made.version), CHAMPION)
        return self.get_version(manifest.name, int(made.version))

    def list_models(self) -> list[str]:
        """Names of all models that have a version."""
        versions = _fetch_all_pages(lambda page_token: self.client.search_model_versions(page_token=page_token))
        return sorted({str(version.name) for version in versions})

    def list_versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first.

        Raises:
            Mistake: no model has this name.
        """
        model = self._find_registered(name)
        found = model and _fetch_all_pages(
            lambda page_token: self.client.search_model_versions(f"name = '{name}'", page_token=page_token)
        )
        if not model or not found:
            raise UserError(f"no model {name!r}; registered: {', '.join(self.list_models()) or 'none'}")
        return sorted((_to_version(v, model.aliases) for v in found), key=lambda v: -v.version)

    def get_version(self, name: str, number: int) -> Version:
        """One version of a model.

        Raises:
            Mistake: the model or the version does not exist.
        """
        versions = self.list_versions(name)
        for version in versions:
            if version.version == number:
                return version
        raise UserError(f"{name} has no version {number}; it has {', '.join(str(v.version) for v in versions)}")

    def resolve(self, reference: str) -> Version:
        """Find what `NAME`, `NAME@alias` or `NAME:version` means now; NAME is its champion, or else its newest.

        Raises:
            Mistake: it means nothing.
        """
        name, at, alias = reference.partition("@")
        name, colon, number = name.partition(":")
        if colon:
            if at or not re.fullmatch(r"[0-9]+", number):
                raise UserError(f"{reference!r} is no model reference; write NAME, NAME@alias or NAME:version")
            return self.get_version(name, int(number))
        versions = self.list_versions(name)
        for version in versions:
            if (alias if at else CHAMPION) in version.aliases:
                return version
        if at:
            known = sorted(a for v in versions for a in v.aliases)
            raise UserError(f"{name} has no alias {alias!r}; it has {', '.join(known) or 'none'}")
        return versions[0]

    def promote(self, name: str, number: int, alias: str) -> Version:
        """Point an alias at a version."""
        self.get_version(name, number)
        try:
            self.client.set_registered_model_alias(name, alias, str(number))
        except MlflowException as error:
            raise UserError(f"{alias!r} cannot be an alias: {error.message}") from error
        return self.get_version(name, number)

    def fetch_bundle(self, version: Version, into: Path | None = None) -> Path:
        """Bring a version's folder to this machine (where it is local already, that is no copy) and return its path."""
        return storage.fetch_folder(version.uri, into or self._cache / version.digest)

    def export_bundle(self, reference: str, folder: Path) -> Path:
        """Copy a version's verified bundle to a new folder.

        Raises:
            Mistake: the folder exists already, or there is no such version.
        """
        if folder.exists():
            raise UserError(f"{folder} exists; give a folder that does not")
        version = self.resolve(reference)
        self.load_manifest(version)
        return Path(shutil.copytree(self.fetch_bundle(version), folder))

    def load_manifest(self, version: Version) -> Manifest:
        """Read and check a version's manifest."""
        return verify_bundle(self.fetch_bundle(version), version.digest)

    def _find_registered(self, name: str) -> RegisteredModel | None:
        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _ensure_experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=self._artifacts))


def _to_version(found: ModelVersion, aliases: Mapping[str, str]) -> Version:
    return Version(
        name=found.name,
        version=int(found.version),
        digest=found.tags.get(DIGEST_TAG, ""),
        uri=found.source or "",
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(found.version))),
        run_id=found.run_id or "",
        created_s=(found.creation_timestamp or time.time() * 1000) / 1000,
    )


def _fetch_all_pages(search: Callable[..., PagedList[Found]]) -> list[Found]:
    """Follow MLflow's page tokens to the end."""
    found: list[Found] = []
    token: str | None = None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found
