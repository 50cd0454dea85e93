"""Dependents: loads what is deployed, and triggers the check of the pipelines that depend on a changed model.

Deploy walk: deploy.py -> [dependents.py] -> deployments.pipelines.compatibility
"""

import json

from cluster.settings import Settings
from deployments.pipelines.compatibility import PipelineResolver
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment
from deployments.specs.pipeline import Pipeline
from deployments.specs.signature import Signature, build_model_signature
from deployments.state.store import DeploymentStore
from training.bundle.manifest import EXAMPLE_FILE
from training.errors import UserError
from training.registry.model_registry import Registry


def resolve_pipeline(settings: Settings, pipeline: Pipeline) -> PipelineDeployment:
    """Check a pipeline against what is deployed.

    Raises:
        UserError: a model has its name, or its nodes are not deployed or do not fit.
    """
    records, registry = DeploymentStore(settings.platform).list_records(), Registry(settings)
    before = next((record for record in records if record.name == pipeline.name), None)
    if isinstance(before, ModelDeployment) or pipeline.name in registry.list_models():
        raise UserError(f"{pipeline.name!r} is a model's name; give the pipeline another")
    resolver = PipelineResolver(records, lambda deployment: _read_signature(registry, deployment))
    endpoint = resolver.resolve(pipeline, settings.limits, before.endpoint if before else None)
    return PipelineDeployment(endpoint=endpoint)


def find_dependents(
    settings: Settings, records: list[DeploymentRecord], changed: DeploymentRecord
) -> list[PipelineDeployment]:
    """Find the pipelines that call what is about to change, with its new signature in them.

    Raises:
        UserError: one of them would not work any more.
    """
    after = [record for record in records if record.name != changed.name] + [changed]
    registry = Registry(settings)
    resolver = PipelineResolver(after, lambda deployment: _read_signature(registry, deployment))
    return resolver.find_dependents(changed.name)


def _read_signature(registry: Registry, deployment: ModelDeployment) -> Signature:
    version = registry.get_version(deployment.name, deployment.endpoint.version)
    manifest = registry.load_manifest(version)
    return build_model_signature(manifest, json.loads((registry.fetch_bundle(version) / EXAMPLE_FILE).read_text()))
