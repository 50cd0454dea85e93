"""The catalogue: what is published, what is deployed, and how that fares. Read by the control application."""

import contextlib
import json
from typing import Any

from deployments.control.status import DeploymentStatus
from deployments.pipelines.plan import pipeline_signature
from deployments.settings import ServingSettings
from deployments.specs.model import Deployment
from deployments.specs.record import DeploymentRecord, PipelineDeployment, PipelineEndpoint
from training.bundle.load import verify_bundle
from training.bundle.manifest import EXAMPLE_FILE, Manifest
from training.errors import BundleError
from training.registry.model_registry import Registry, Version

NOT_DEPLOYED = "NOT_DEPLOYED"


class Catalog(DeploymentStatus):
    """Answers from the registry as well."""

    def __init__(self, settings: ServingSettings) -> None:
        super().__init__(settings)
        self._registry = Registry(settings)
        self._manifests: dict[str, tuple[Manifest, dict[str, Any]]] = {}

    def list_models(self) -> list[dict[str, Any]]:
        """A line for each model, and for each pipeline."""
        deployed, statuses = self.list_deployed(), self.fetch_statuses()
        models = [self._summarize_model(name, deployed, statuses) for name in self._registry.list_models()]
        return models + [_summarize_pipeline(each.endpoint, statuses[each.name]) for each in self.list_pipelines()]

    def describe_model(self, name: str) -> dict[str, Any]:
        """All of one model or pipeline; raises Mistake if there is none."""
        pipeline = next((each for each in self.list_pipelines() if each.name == name), None)
        if pipeline:
            return _summarize_pipeline(pipeline.endpoint, self.fetch_statuses()[name]) | {
                "manifest": None,
                "versions": [],
                "pipeline": pipeline.endpoint.pipeline.model_dump(mode="json", exclude_none=True),
                "example": {"inputs": [pipeline_signature(pipeline.endpoint).example]},
            }
        line = self._summarize_model(name, self.list_deployed(), self.fetch_statuses())
        versions = self._registry.list_versions(name)
        told: dict[str, Any] = {"manifest": None, "example": None}
        if line["task"] is not None:
            manifest, example = self.load_content(versions[0])
            told = {"manifest": manifest.model_dump(mode="json"), "example": example}
        listed = [
            {"version": v.version, "aliases": v.aliases, "digest": v.digest, "run_id": v.run_id} for v in versions
        ]
        return line | told | {"versions": listed}

    def load_content(self, version: Version) -> tuple[Manifest, dict[str, Any]]:
        """A version's manifest and example request; read once, since a digest's content never changes."""
        if version.digest not in self._manifests:
            folder = self._registry.fetch_bundle(version)
            manifest = verify_bundle(folder, version.digest)
            self._manifests[version.digest] = manifest, json.loads((folder / EXAMPLE_FILE).read_text())
        return self._manifests[version.digest]

    def list_served(self) -> list[tuple[Deployment, Manifest, dict[str, Any]]]:
        """Each deployment with the manifest and example of the version it serves."""
        found = []
        for name, deployment in self.list_deployed().items():
            if isinstance(deployment, PipelineDeployment):
                continue
            # What is served was verified when it was loaded; what happened to the store since then is not told here.
            with contextlib.suppress(BundleError, OSError):
                found.append(
                    (deployment, *self.load_content(self._registry.get_version(name, deployment.endpoint.version)))
                )
        return found

    def list_pipelines(self) -> list[PipelineDeployment]:
        """Each deployed pipeline."""
        return [each for each in self._state.list_records() if isinstance(each, PipelineDeployment)]

    def _summarize_model(
        self, name: str, deployed: dict[str, DeploymentRecord], statuses: dict[str, str]
    ) -> dict[str, Any]:
        versions = self._registry.list_versions(name)
        deployment = deployed.get(name)
        try:
            manifest, _ = self.load_content(versions[0])
            told: dict[str, Any] = {"task": manifest.task, "summary": manifest.summary}
        except (BundleError, OSError) as error:
            # One damaged bundle shall not hide the others.
            told = {"task": None, "summary": f"damaged: {error}"}
        return told | {
            "name": name,
            "newest": versions[0].version,
            "aliases": {alias: v.version for v in versions for alias in v.aliases},
            "status": statuses.get(name, NOT_DEPLOYED),
            "deployed_version": deployment.endpoint.version if deployment else None,
            "form": deployment.endpoint.variant if deployment else None,
        }


def _summarize_pipeline(endpoint: PipelineEndpoint, status: str) -> dict[str, Any]:
    return {
        "task": "pipeline",
        "summary": endpoint.pipeline.summary,
        "name": endpoint.name,
        "newest": endpoint.version,
        "aliases": {},
        "status": status,
        "deployed_version": endpoint.version,
        "nodes": list(endpoint.signatures),
    }
