"""Pipelines: models put together, and called like one.

Deploy walk:  cluster.cli.app apply -> files.py -> resolve.py (check) -> deployments.applications -> replica.py -> plan.py
Request walk: socket -> HAProxy -> deployments.server.routes -> routes.py -> runner.py -> plan.py -> a handle -> each model
A pipeline pins nothing: a step is whatever is deployed under its name just now.
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
