"""The catalogue: what is published, what is deployed, and how that fares. Read by the control application."""

import contextlib
import json
from typing import Any

from deployments.pipelines.deployment import PipelineDeployment, PipelineEndpoint
from deployments.pipelines.resolve import Noted
from deployments.settings import ServingSettings
from deployments.spec import Deployment
from deployments.standing import Standing
from training import bundle
from training.bundle import Manifest
from training.errors import BundleError
from training.registry import Registry, Version

NOT_DEPLOYED = "NOT_DEPLOYED"


class Catalogue(Standing):
    """Answers from the registry as well."""

    def __init__(self, settings: ServingSettings) -> None:
        super().__init__(settings)
        self._registry = Registry(settings)
        self._manifests: dict[str, tuple[Manifest, dict[str, Any]]] = {}

    def models(self) -> list[dict[str, Any]]:
        """A line for each model, and for each pipeline."""
        deployed, statuses = self.deployed(), self.statuses()
        models = [self._line(name, deployed, statuses) for name in self._registry.names()]
        return models + [_pipeline_line(each.endpoint, statuses[each.name]) for each in self.pipelines()]

    def model(self, name: str) -> dict[str, Any]:
        """All of one model or pipeline; raises Mistake if there is none."""
        pipeline = next((each for each in self.pipelines() if each.name == name), None)
        if pipeline:
            return _pipeline_line(pipeline.endpoint, self.statuses()[name]) | {
                "manifest": None,
                "versions": [],
                "pipeline": pipeline.endpoint.pipeline.model_dump(mode="json", exclude_none=True),
                "example": {"inputs": [pipeline.endpoint.signature().example]},
            }
        line = self._line(name, self.deployed(), self.statuses())
        versions = self._registry.versions(name)
        told: dict[str, Any] = {"manifest": None, "example": None}
        if line["task"] is not None:
            manifest, example = self.content(versions[0])
            told = {"manifest": manifest.model_dump(mode="json"), "example": example}
        listed = [
            {"version": v.version, "aliases": v.aliases, "digest": v.digest, "run_id": v.run_id} for v in versions
        ]
        return line | told | {"versions": listed}

    def content(self, version: Version) -> tuple[Manifest, dict[str, Any]]:
        """A version's manifest and example request; read once, since a digest's content never changes."""
        if version.digest not in self._manifests:
            folder = self._registry.fetch(version)
            manifest = bundle.verify(folder, version.digest)
            self._manifests[version.digest] = manifest, json.loads((folder / bundle.EXAMPLE).read_text())
        return self._manifests[version.digest]

    def served(self) -> list[tuple[Deployment, Manifest, dict[str, Any]]]:
        """Each deployment with the manifest and example of the version it serves."""
        found = []
        for name, deployment in self.deployed().items():
            if isinstance(deployment, PipelineDeployment):
                continue
            # What is served was verified when it was loaded; what happened to the store since then is not told here.
            with contextlib.suppress(BundleError, OSError):
                found.append((deployment, *self.content(self._registry.version(name, deployment.endpoint.version))))
        return found

    def pipelines(self) -> list[PipelineDeployment]:
        """Each deployed pipeline."""
        return [each for each in self._state.all() if isinstance(each, PipelineDeployment)]

    def _line(self, name: str, deployed: dict[str, Noted], statuses: dict[str, str]) -> dict[str, Any]:
        versions = self._registry.versions(name)
        deployment = deployed.get(name)
        try:
            manifest, _ = self.content(versions[0])
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
            "form": deployment.endpoint.form if deployment else None,
        }


def _pipeline_line(endpoint: PipelineEndpoint, status: str) -> dict[str, Any]:
    return {
        "task": "pipeline",
        "summary": endpoint.pipeline.summary,
        "name": endpoint.name,
        "newest": endpoint.version,
        "aliases": {},
        "status": status,
        "deployed_version": endpoint.version,
        "steps": list(endpoint.steps),
    }
