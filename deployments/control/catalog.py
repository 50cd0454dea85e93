"""Catalog: what is published and what is deployed, for the control application."""

import contextlib
import json
from typing import Any, NamedTuple

from deployments.control.status import DeploymentStatus
from deployments.pipelines.pipeline_plan import build_pipeline_signature
from deployments.settings import ServingSettings
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment
from training.bundle.manifest import EXAMPLE_FILE, Manifest
from training.errors import BundleError
from training.registry.entities import Version
from training.registry.model_registry import Registry

NOT_DEPLOYED = "NOT_DEPLOYED"


class DeployedModel(NamedTuple):
    """A model's deployment, with the manifest and example request of the deployed version."""

    deployment: ModelDeployment
    manifest: Manifest
    example: dict[str, Any]


class Catalog:
    """The registry's models and the deployed pipelines, with the status of each."""

    def __init__(self, settings: ServingSettings) -> None:
        self.status = DeploymentStatus(settings)
        self._registry = Registry(settings)
        self._contents: dict[str, tuple[Manifest, dict[str, Any]]] = {}

    def list_models(self) -> list[dict[str, Any]]:
        """Summarize each model and each pipeline."""
        deployed, statuses = self.status.list_deployed(), self.status.fetch_statuses()
        models = [self._summarize_model(name, deployed, statuses) for name in self._registry.list_models()]
        return models + [_summarize_pipeline(each.endpoint, statuses[each.name]) for each in self.list_pipelines()]

    def describe_model(self, name: str) -> dict[str, Any]:
        """Describe one model or pipeline: its summary, versions, manifest and example; raises UserError if none."""
        pipeline = next((each for each in self.list_pipelines() if each.name == name), None)
        if pipeline:
            return _summarize_pipeline(pipeline.endpoint, self.status.fetch_statuses()[name]) | {
                "manifest": None,
                "versions": [],
                "pipeline": pipeline.endpoint.pipeline.model_dump(mode="json", exclude_none=True),
                "example": {"inputs": [build_pipeline_signature(pipeline.endpoint).example]},
            }
        summary = self._summarize_model(name, self.status.list_deployed(), self.status.fetch_statuses())
        versions = self._registry.list_versions(name)
        content: dict[str, Any] = {"manifest": None, "example": None}
        if summary["task"] is not None:
            manifest, example = self._load_content(versions[0])
            content = {"manifest": manifest.model_dump(mode="json"), "example": example}
        version_list = [
            {"version": v.version, "aliases": v.aliases, "digest": v.digest, "run_id": v.run_id} for v in versions
        ]
        return summary | content | {"versions": version_list}

    def list_deployed_models(self) -> list[DeployedModel]:
        """List each deployed model with the content of its version."""
        models = []
        for name, deployment in self.status.list_deployed().items():
            if isinstance(deployment, PipelineDeployment):
                continue
            # A replica verified its bundle when it loaded it; if the store was damaged since then, it still serves.
            with contextlib.suppress(BundleError, OSError):
                content = self._load_content(self._registry.get_version(name, deployment.endpoint.version))
                models.append(DeployedModel(deployment, *content))
        return models

    def list_pipelines(self) -> list[PipelineDeployment]:
        """List each deployed pipeline."""
        return [each for each in self.status.list_deployed().values() if isinstance(each, PipelineDeployment)]

    def _load_content(self, version: Version) -> tuple[Manifest, dict[str, Any]]:
        """Load a version's manifest and example request; once, since a digest's content never changes."""
        if version.digest not in self._contents:
            manifest = self._registry.load_manifest(version)
            folder = self._registry.fetch_bundle(version)
            self._contents[version.digest] = manifest, json.loads((folder / EXAMPLE_FILE).read_text())
        return self._contents[version.digest]

    def _summarize_model(
        self, name: str, deployed: dict[str, DeploymentRecord], statuses: dict[str, str]
    ) -> dict[str, Any]:
        versions = self._registry.list_versions(name)
        deployment = deployed.get(name)
        try:
            manifest, _ = self._load_content(versions[0])
            task, summary = manifest.task, manifest.summary
        except (BundleError, OSError) as error:
            # One damaged bundle must not hide the others.
            task, summary = None, f"damaged: {error}"
        return {
            "name": name,
            "task": task,
            "summary": summary,
            "newest": versions[0].version,
            "aliases": {alias: v.version for v in versions for alias in v.aliases},
            "status": statuses.get(name, NOT_DEPLOYED),
            "deployed_version": deployment.endpoint.version if deployment else None,
            "variant": deployment.endpoint.variant if deployment else None,
        }


def _summarize_pipeline(endpoint: PipelineEndpoint, status: str) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "task": "pipeline",
        "summary": endpoint.pipeline.summary,
        "newest": endpoint.version,
        "aliases": {},
        "status": status,
        "deployed_version": endpoint.version,
        "variant": endpoint.variant,
        "nodes": list(endpoint.signatures),
    }
