"""Registry: the published models, their versions and aliases, and the record of each training run.

Train walk: training.run.driver -> [model_registry.py] -> mlflow_store.py
Deploy walk: cluster.shoal -> [model_registry.py] -> sqlite_reader.py
A version is a bundle stored as an artifact of the run that made it, pinned by its manifest's digest. It is never on a
request's path.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from training.bundle.manifest import MANIFEST_FILE, PROVENANCE_FILE, Manifest
from training.bundle.verify import parse_manifest, verify_bundle
from training.errors import BundleError, UserError
from training.registry import storage
from training.registry.entities import CHAMPION, IMPORTED_PARAM, RegistryReader, Version
from training.registry.opening import lock_store
from training.registry.sqlite_reader import open_reader
from training.settings import TrainingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from training.registry.mlflow_store import EndStatus, MlflowStore


class AlreadyPublished(UserError):
    """The bundle is a version of its model already."""

    def __init__(self, version: Version) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"this bundle is published already, as {self.version}; deploy that, or save a new bundle"


class Registry:
    """Runs, models, versions and aliases in one MLflow store.

    Opening one is cheap and creates nothing: MLflow is imported, and a new store created, by the first call that needs
    it, which then raises UserError where the store does not answer.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self._cache = settings.home / "cache"
        self.run_storage = f"{settings.artifacts}/runs"
        """The folder of all runs' checkpoints, which a run deletes when it has published."""

    @cached_property
    def _store(self) -> MlflowStore:
        from training.registry.mlflow_store import MlflowStore

        return MlflowStore(self._settings)

    @property
    def client(self) -> MlflowClient:
        """MLflow's client of this store, for what Shoal has no method for."""
        return self._store.client

    @property
    def reader(self) -> RegistryReader:
        """The fastest reader of this store: SQLite's own where it knows the file, otherwise MLflow."""
        return open_reader(self._settings.registry) or self._store

    def start_run(
        self, name: str, params: Mapping[str, object], *, recipe: Mapping[str, object] | None = None, origin: str = ""
    ) -> str:
        """Create a run that this process drives, with its parameters and its recipe; returns its id."""
        return self._store.start_run(name, params, recipe=recipe, origin=origin)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one epoch."""
        self._store.log_metrics(run_id, metrics, step)

    def reopen_run(self, run_id: str) -> None:
        """Set an ended run to RUNNING, driven by this process."""
        self._store.reopen_run(run_id)

    def end_run(self, run_id: str, status: EndStatus) -> None:
        """Set a run's final status and its end time."""
        self._store.end_run(run_id, status)

    def publish(self, folder: Path, run_id: str | None = None) -> Version:
        """Verify a bundle and publish it as the next version of the model that it names.

        The version is created after its last file is stored, so that no reader finds half a bundle. A model's first
        version becomes its champion. What a run of this cluster made is signed; a bundle from elsewhere keeps the
        signatures that it has.

        Args:
            folder: the bundle.
            run_id: the run that made it; None for a bundle from elsewhere, which gets a run of its own.

        Raises:
            BundleError: the bundle fails its checks.
            AlreadyPublished: the model has a version with this digest.
        """
        manifest = verify_bundle(folder)
        _ = self._store  # opened before it is locked: of a wrong URI it says what to do
        with lock_store(self._settings.registry, "publish"):
            return self._publish(manifest, folder, run_id)

    def _publish(self, manifest: Manifest, folder: Path, run_id: str | None) -> Version:
        provenance = self._attest(manifest, folder, run_id)
        versions = self.reader.list_versions(manifest.name)
        for version in versions:
            if version.digest == manifest.digest:
                raise AlreadyPublished(version)
        is_import = run_id is None
        run_id = run_id or self.start_run(f"import-{manifest.name}", {IMPORTED_PARAM: True})
        number = self._store.create_version(manifest, folder, run_id, provenance)
        if is_import:
            self.log_metrics(run_id, manifest.metrics, step=0)
            self.end_run(run_id, "FINISHED")
        if not versions:
            self.promote(manifest.name, number, CHAMPION)
        return self.get_version(manifest.name, number)

    def _attest(self, manifest: Manifest, folder: Path, run_id: str | None) -> bytes | None:
        """The statements to store beside a bundle: those that it brings along, and this cluster's of what it made."""
        from training.provenance.attest import attest_training, check_import
        from training.provenance.verification import read_provenance

        provenance = read_provenance(str(folder))
        if provenance is not None:
            check_import(self._settings.home, provenance, manifest)
        run = self.reader.get_run(run_id) if run_id else None
        if run is None:
            return provenance
        return append_line(provenance, attest_training(self._settings.home, manifest, run))

    def sign_version(self, version: Version) -> bool:
        """Sign a version that this cluster has not signed: as trained by its run here, or as imported.

        Returns:
            Whether it was signed now; False where this cluster's signature is there already.

        Raises:
            BundleError: the bundle, or what is signed of it, is damaged.
        """
        from training.provenance.attest import attest_import, attest_training
        from training.provenance.trust import ANY, OWN_NAME, load_policy
        from training.provenance.verification import check_attestations, read_provenance

        manifest, home = self.load_manifest(version), self._settings.home
        _ = self._store
        with lock_store(self._settings.registry, "publish"):
            provenance = read_provenance(version.uri)
            for each in check_attestations(provenance, manifest.name, version.digest, load_policy(home, ANY)):
                if each.signer and each.signer.name == OWN_NAME and not each.problem:
                    return False
            run = self.reader.get_run(version.run_id)
            if run is None or IMPORTED_PARAM in run.params:
                line = attest_import(home, manifest)
            else:
                line = attest_training(home, manifest, run, is_driver=False)
            content = append_line(provenance, line)
            storage.replace_file(f"{version.uri}/{PROVENANCE_FILE}", content)
            if (cached := self._cache_folder(version)).is_dir():
                storage.replace_file(str(cached / PROVENANCE_FILE), content)
        return True

    def list_models(self) -> list[str]:
        """Names of all models that have a version, sorted."""
        return sorted({version.name for version in self.reader.list_versions()})

    def list_versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first.

        Raises:
            UserError: no model has this name.
        """
        versions = self.reader.list_versions(name)
        if not versions:
            raise UserError(f"no model {name!r}; registered: {', '.join(self.list_models()) or 'none'}")
        return versions

    def get_version(self, name: str, number: int) -> Version:
        """One version of a model.

        Raises:
            UserError: the model or the version does not exist.
        """
        versions = self.list_versions(name)
        for version in versions:
            if version.version == number:
                return version
        raise UserError(f"{name} has no version {number}; it has {', '.join(str(v.version) for v in versions)}")

    def resolve(self, reference: str) -> Version:
        """Find the version of `NAME` (its newest), `NAME@alias` or `NAME:version`.

        Raises:
            UserError: there is none, or the reference has another form.
        """
        match = re.fullmatch(r"(?P<name>[^:@]*)(:(?P<number>[0-9]+)|@(?P<alias>[^:@]*))?", reference)
        if not match:
            raise UserError(f"{reference!r} is not a model reference; write NAME, NAME@alias or NAME:version")
        name, number, alias = match["name"], match["number"], match["alias"]
        if number is not None:
            return self.get_version(name, int(number))
        versions = self.list_versions(name)
        if alias is None:
            return versions[0]
        for version in versions:
            if alias in version.aliases:
                return version
        aliases = sorted(alias for version in versions for alias in version.aliases)
        raise UserError(f"{name} has no alias {alias!r}; it has {', '.join(aliases) or 'none'}")

    def resolve_version(self, reference: str) -> Version:
        """Find the version of `NAME:version`, for what must not act on whichever version is the newest.

        Raises:
            UserError: there is none, or the reference has another form.
        """
        if ":" not in reference:
            raise UserError(f"{reference!r} names no version; write NAME:version")
        return self.resolve(reference)

    def promote(self, name: str, number: int, alias: str) -> Version:
        """Point an alias at a version.

        Raises:
            UserError: the version does not exist, or the alias is not a valid one.
        """
        self.get_version(name, number)
        self._store.set_alias(name, alias, number)
        return self.get_version(name, number)

    def delete_version(self, name: str, number: int) -> Version:
        """Delete a version and its bundle's files; the record of its run stays.

        Returns:
            What was deleted.

        Raises:
            UserError: the version does not exist, or an alias points at it that could point at another.
        """
        version = self.get_version(name, number)
        if version.aliases and len(self.list_versions(name)) > 1:
            raise UserError(
                f"{version} has the alias {', '.join(version.aliases)}; point that at another version first, with "
                f"`shoal models promote {name} VERSION --as {version.aliases[0]}`"
            )
        # The record first: files without a record are harmless, a version without files is not.
        self._store.delete_version(name, number)
        with contextlib.suppress(FileNotFoundError):
            storage.delete_folder(version.uri)
            storage.delete_empty_parents(version.uri, self._settings.artifacts)
        shutil.rmtree(self._cache_folder(version), ignore_errors=True)
        return version

    def fetch_bundle(self, version: Version, into: Path | None = None) -> Path:
        """Return a local path of a version's folder: its own if it is local, otherwise a copy."""
        return storage.fetch_folder(version.uri, into or self._cache_folder(version))

    def export_bundle(self, reference: str, folder: Path) -> Path:
        """Copy a version's verified bundle to a new folder.

        Raises:
            UserError: the folder exists already, or there is no such version.
            BundleError: the bundle fails its checks.
        """
        if folder.exists():
            raise UserError(f"{folder} exists already; give a new folder")
        version = self.resolve(reference)
        self.load_manifest(version)
        return Path(shutil.copytree(self.fetch_bundle(version), folder))

    def load_manifest(self, version: Version) -> Manifest:
        """Fetch a version's bundle and verify every file of it.

        Raises:
            BundleError: the bundle fails its checks.
        """
        return storage.use_bundle(
            version.uri, self._cache_folder(version), lambda folder: verify_bundle(folder, version.digest)
        )

    def read_manifest(self, version: Version) -> Manifest:
        """Read a version's manifest and check its digest only: fast, for listings.

        Raises:
            BundleError: it cannot be read or was altered.
        """
        cached = self._cache_folder(version) / MANIFEST_FILE
        uri = str(cached) if cached.is_file() else f"{version.uri}/{MANIFEST_FILE}"
        try:
            content = storage.read_file(uri)
        except OSError as error:
            raise BundleError(f"{MANIFEST_FILE} of {version} cannot be read: {error}") from error
        return parse_manifest(content, version.digest)

    def _cache_folder(self, version: Version) -> Path:
        return self._cache / version.digest


def append_line(content: bytes | None, line: bytes) -> bytes:
    """Append a line to the content of a file, whose last line may lack its end."""
    before = (content or b"").rstrip(b"\n")
    return before + b"\n" * bool(before) + line
