"""Composition: pipelines checked against what is deployed, and what is deployed checked against its pipelines.

Deploy walk: cluster.cli apply -> rollout.py -> [composition.py] -> deployments.pipelines.resolve
"""

import json

from cluster.settings import Settings
from deployments.pipelines import signature
from deployments.pipelines.deployment import PipelineDeployment
from deployments.pipelines.resolve import Noted, Resolution
from deployments.pipelines.signature import Signature
from deployments.pipelines.spec import Pipeline
from deployments.spec import Deployment
from deployments.state import State
from training.bundle import EXAMPLE
from training.errors import Mistake
from training.registry import Registry


def compose(settings: Settings, pipeline: Pipeline) -> PipelineDeployment:
    """Check a pipeline against what is deployed.

    Raises:
        Mistake: a model has its name, or its steps are not deployed or do not fit.
    """
    noted, registry = State(settings.platform).all(), Registry(settings)
    before = next((each for each in noted if each.name == pipeline.name), None)
    if isinstance(before, Deployment) or pipeline.name in registry.names():
        raise Mistake(f"{pipeline.name!r} is a model's name; give the pipeline another")
    resolution = Resolution(noted, lambda each: _signature(registry, each))
    return PipelineDeployment(
        endpoint=resolution.endpoint(pipeline, settings.limits, before.endpoint if before else None)
    )


def followers(settings: Settings, noted: list[Noted], changed: Noted) -> list[PipelineDeployment]:
    """The pipelines that call what is about to change, with what they now know of it.

    Raises:
        Mistake: one of them would not work any more, or a pipeline has the changed model's name.
    """
    before = next((each for each in noted if each.name == changed.name), None)
    if isinstance(before, PipelineDeployment) and isinstance(changed, Deployment):
        raise Mistake(f"{changed.name!r} is a pipeline's name; `shoal undeploy {changed.name}` first")
    after = [each for each in noted if each.name != changed.name] + [changed]
    if not any(isinstance(each, PipelineDeployment) for each in noted):
        return []
    registry = Registry(settings)
    return Resolution(after, lambda each: _signature(registry, each)).followers(changed.name)


def refuse_while_called(noted: list[Noted], name: str) -> None:
    """Raise Mistake if a pipeline calls this model or pipeline."""
    callers = [each.name for each in noted if isinstance(each, PipelineDeployment) and name in each.endpoint.steps]
    if callers:
        raise Mistake(f"{name!r} is a step of {', '.join(callers)}; `shoal undeploy {callers[0]}` first")


def _signature(registry: Registry, deployment: Deployment) -> Signature:
    version = registry.version(deployment.name, deployment.endpoint.version)
    manifest = registry.manifest(version)
    return signature.of_model(manifest, json.loads((registry.fetch(version) / EXAMPLE).read_text()))
