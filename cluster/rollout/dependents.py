"""Composition: pipelines checked against what is deployed, and what is deployed checked against its pipelines.

Deploy walk: cluster.cli.app apply -> rollout.py -> [composition.py] -> deployments.pipelines.resolve
"""

import json

from cluster.settings import Settings
from deployments.pipelines.resolve import PipelineResolver
from deployments.specs import signature
from deployments.specs.model import Deployment
from deployments.specs.pipeline import Pipeline
from deployments.specs.record import DeploymentRecord, PipelineDeployment
from deployments.specs.signature import Signature
from deployments.state.store import DeploymentStore
from training.bundle.manifest import EXAMPLE_FILE
from training.errors import UserError
from training.registry.model_registry import Registry


def resolve_pipeline(settings: Settings, pipeline: Pipeline) -> PipelineDeployment:
    """Check a pipeline against what is deployed.

    Raises:
        Mistake: a model has its name, or its steps are not deployed or do not fit.
    """
    noted, registry = DeploymentStore(settings.platform).list_records(), Registry(settings)
    before = next((each for each in noted if each.name == pipeline.name), None)
    if isinstance(before, Deployment) or pipeline.name in registry.list_models():
        raise UserError(f"{pipeline.name!r} is a model's name; give the pipeline another")
    resolution = PipelineResolver(noted, lambda each: _signature(registry, each))
    return PipelineDeployment(
        endpoint=resolution.resolve(pipeline, settings.limits, before.endpoint if before else None)
    )


def find_dependents(
    settings: Settings, noted: list[DeploymentRecord], changed: DeploymentRecord
) -> list[PipelineDeployment]:
    """The pipelines that call what is about to change, with what they now know of it.

    Raises:
        Mistake: one of them would not work any more, or a pipeline has the changed model's name.
    """
    before = next((each for each in noted if each.name == changed.name), None)
    if isinstance(before, PipelineDeployment) and isinstance(changed, Deployment):
        raise UserError(f"{changed.name!r} is a pipeline's name; `shoal undeploy {changed.name}` first")
    after = [each for each in noted if each.name != changed.name] + [changed]
    if not any(isinstance(each, PipelineDeployment) for each in noted):
        return []
    registry = Registry(settings)
    return PipelineResolver(after, lambda each: _signature(registry, each)).find_dependents(changed.name)


def reject_if_called(noted: list[DeploymentRecord], name: str) -> None:
    """Raise Mistake if a pipeline calls this model or pipeline."""
    callers = [each.name for each in noted if isinstance(each, PipelineDeployment) and name in each.endpoint.signatures]
    if callers:
        raise UserError(f"{name!r} is a step of {', '.join(callers)}; `shoal undeploy {callers[0]}` first")


def _signature(registry: Registry, deployment: Deployment) -> Signature:
    version = registry.get_version(deployment.name, deployment.endpoint.version)
    manifest = registry.load_manifest(version)
    return signature.model_signature(manifest, json.loads((registry.fetch_bundle(version) / EXAMPLE_FILE).read_text()))
