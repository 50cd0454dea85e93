"""Audited registry: the registry whose changes are rows of the audit log, which is in another database.

Train walk: train.py -> [audited_registry.py] -> training.registry.model_registry
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.settings import Settings
from training.bundle.manifest import Manifest
from training.registry.entities import Version
from training.registry.model_registry import Registry

if TYPE_CHECKING:
    from deployments.access.audit.log import AuditLog


class AuditedRegistry(Registry):
    """The registry, for those who change it; opening it is as cheap, and reading the same."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._serving_settings = settings

    def promote(self, name: str, number: int, alias: str) -> Version:
        """Point an alias at a version; see Registry.promote."""
        version = self.get_version(name, number)
        before = next((each for each in self.list_versions(name) if alias in each.aliases), None)
        with self._audit.record(
            "models.alias",
            f"{name}@{alias}",
            before=_describe(before) if before else None,
            after=_describe(version),
        ):
            return super().promote(name, number, alias)

    def delete_version(self, name: str, number: int) -> Version:
        """Delete a version; see Registry.delete_version."""
        version = self.get_version(name, number)
        with self._audit.record("models.delete", str(version), before=_describe(version)):
            return super().delete_version(name, number)

    def sign_version(self, version: Version) -> bool:
        """Sign a version; see Registry.sign_version."""
        with self._audit.record("models.sign", str(version), after=_describe(version)):
            return super().sign_version(version)

    def _publish(self, manifest: Manifest, folder: Path, run_id: str | None) -> Version:
        # What is no valid bundle has been refused by now, and nobody else publishes.
        after = {"digest": manifest.digest, "run_id": run_id}
        with self._audit.record("models.publish", manifest.name, after=after) as change:
            version = super()._publish(manifest, folder, run_id)
            change.target, change.after = str(version), _describe(version)
        return version

    @property
    def _audit(self) -> "AuditLog":
        from deployments.access.audit.log import AuditLog

        return AuditLog.open(self._serving_settings)


def _describe(version: Version) -> dict[str, object]:
    return {"version": version.version, "digest": version.digest, "run_id": version.run_id}
