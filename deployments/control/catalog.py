"""Catalog: what is published and what is deployed, for the control application."""

import contextlib
from typing import Any, NamedTuple

from deployments.control.sleeping import load_bundle_content
from deployments.control.status import DeploymentStatus
from deployments.errors import UnknownModel
from deployments.pipelines.pipeline_plan import build_pipeline_signature
from deployments.scaling.profile import PROFILES, ProfileCache
from deployments.settings import ServingSettings
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment
from training.bundle.manifest import Manifest
from training.errors import ShoalError
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
        self._registry, self._cache = Registry(settings), settings.home / "cache"
        self._contents: dict[str, tuple[Manifest, dict[str, Any]]] = {}

    def list_models(self) -> list[dict[str, Any]]:
        """Summarize each model and each pipeline."""
        deployed, statuses = self.status.list_deployed(), self.status.fetch_statuses()
        models = [self._summarize_model(name, deployed, statuses) for name in self._registry.list_models()]
        pipelines = [
            _summarize_pipeline(each.endpoint, statuses.get(each.name, NOT_DEPLOYED))
            for each in deployed.values()
            if isinstance(each, PipelineDeployment)
        ]
        return models + pipelines

    def describe_model(self, name: str) -> dict[str, Any]:
        """Describe one model or pipeline: its summary, versions, manifest and example; raises UserError if none."""
        pipeline = next((each for each in self.list_pipelines() if each.name == name), None)
        if pipeline:
            status = self.status.fetch_statuses().get(name, NOT_DEPLOYED)
            return _summarize_pipeline(pipeline.endpoint, status) | {
                "manifest": None,
                "versions": [],
                "pipeline": pipeline.endpoint.pipeline.model_dump(mode="json", exclude_none=True),
                "example": {"inputs": [build_pipeline_signature(pipeline.endpoint).example]},
            }
        summary = self._summarize_model(name, self.status.list_deployed(), self.status.fetch_statuses())
        versions = self._registry.list_versions(name)
        content: dict[str, Any] = {"manifest": None, "example": None}
        if summary["task"] is not None:
            manifest, example = self.load_content(versions[0].uri, versions[0].digest)
            content = {"manifest": manifest.model_dump(mode="json"), "example": example}
        version_list = [
            {"version": v.version, "aliases": v.aliases, "digest": v.digest, "run_id": v.run_id} for v in versions
        ]
        return summary | content | {"versions": version_list}

    def describe_profiles(self, name: str) -> dict[str, Any]:
        """Describe how fast a deployed model is: its goal, and the profiles of its version, newest first.

        Raises:
            UnknownModel: no model of this name is deployed.
        """
        deployment = self.status.list_deployed().get(name)
        if not isinstance(deployment, ModelDeployment):
            raise UnknownModel(
                f"no model {name!r} is deployed, and pipelines have no profile; `shoal status` lists both"
            )
        endpoint = deployment.endpoint
        manifest, _ = self.load_content(endpoint.uri, endpoint.digest)
        profiles = ProfileCache(self._cache / PROFILES).list_profiles(endpoint.digest)
        return {
            "name": name,
            "version": endpoint.version,
            "variant": endpoint.variant,
            "task": manifest.task,
            "slo_p99_s": deployment.scale.slo_p99_s,
            "profiles": [profile.model_dump(mode="json") for profile in profiles],
        }

    def list_deployed_models(self) -> list[DeployedModel]:
        """List each deployed model with the content of its version."""
        models = []
        for deployment in self.status.list_deployed().values():
            if isinstance(deployment, PipelineDeployment):
                continue
            # A replica verified its bundle when it loaded it, and still serves if that was damaged or deleted since.
            with contextlib.suppress(ShoalError, OSError):
                content = self.load_content(deployment.endpoint.uri, deployment.endpoint.digest)
                models.append(DeployedModel(deployment, *content))
        return models

    def list_pipelines(self) -> list[PipelineDeployment]:
        """List each deployed pipeline."""
        return [each for each in self.status.list_deployed().values() if isinstance(each, PipelineDeployment)]

    def load_content(self, uri: str, digest: str) -> tuple[Manifest, dict[str, Any]]:
        """Load a bundle's manifest and example request; once, since a digest's content never changes."""
        if digest not in self._contents:
            self._contents[digest] = load_bundle_content(self._cache, uri, digest)
        return self._contents[digest]

    def _summarize_model(
        self, name: str, deployed: dict[str, DeploymentRecord], statuses: dict[str, str]
    ) -> dict[str, Any]:
        versions = self._registry.list_versions(name)
        deployment = deployed.get(name)
        try:
            manifest, _ = self.load_content(versions[0].uri, versions[0].digest)
            task, summary = manifest.task, manifest.summary
        except (ShoalError, OSError) as error:
            # One damaged bundle, or model of another MLflow client, must not hide the others.
            task, summary = None, f"cannot be read: {error}"
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
