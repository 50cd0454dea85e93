"""Pipelines: models composed into one that is called like a model; resolved, checked and run.

Exports what a pipeline file in Python imports. A pipeline pins no versions: a node calls whatever is deployed under its
model's name at that moment.
"""

from deployments.specs.conditions import (
    CountCondition,
    FeatureCondition,
    LabelCondition,
    LengthCondition,
    NumberCondition,
    PatternCondition,
    PresenceCondition,
)
from deployments.specs.pipeline import Branch, Case, Ensemble, FanOut, ModelNode, Pipeline, PipelineScale, Sequence

__all__ = [
    "Branch",
    "Case",
    "CountCondition",
    "Ensemble",
    "FanOut",
    "FeatureCondition",
    "LabelCondition",
    "LengthCondition",
    "ModelNode",
    "NumberCondition",
    "PatternCondition",
    "Pipeline",
    "PipelineScale",
    "PresenceCondition",
    "Sequence",
]
