"""Pipelines: models put together, and called like one.

Deploy walk:  cluster.cli apply -> files.py -> resolve.py (check) -> deployments.apps -> replica.py -> plan.py
Request walk: socket -> HAProxy -> deployments.ingress -> routes.py -> runner.py -> plan.py -> a handle -> each model
A pipeline pins nothing: a step is whatever is deployed under its name just now.
"""

from deployments.pipelines.conditions import FeatureIs, Found, LabelIs, Length, Matches, NumberIs, Present
from deployments.pipelines.spec import Arm, Branch, Ensemble, FanOut, Pipeline, PipelineScale, Sequence, Step

__all__ = [
    "Arm",
    "Branch",
    "Ensemble",
    "FanOut",
    "FeatureIs",
    "Found",
    "LabelIs",
    "Length",
    "Matches",
    "NumberIs",
    "Pipeline",
    "PipelineScale",
    "Present",
    "Sequence",
    "Step",
]
