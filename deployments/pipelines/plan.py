"""Plans: a pipeline checked against what its steps take and give, and ready to run.

Deploy walk:  resolve.py -> [plan.py: check] ; replica.py -> [plan.py: build]
Request walk: runner.py -> [plan.py: run] -> ask -> each model
Knows nothing of Ray or HTTP: how a model is asked is given to it with each request.
"""

from collections.abc import Mapping
from typing import Any

from deployments.pipelines.branch import BranchPlan
from deployments.pipelines.ensemble import EnsemblePlan
from deployments.pipelines.fan_out import FanOutPlan
from deployments.pipelines.node import Plan
from deployments.pipelines.sequence import SequencePlan
from deployments.pipelines.signature import Signature
from deployments.pipelines.spec import Branch, Ensemble, FanOut, Pipeline, Sequence, Step
from deployments.pipelines.step import StepPlan


def build(pipeline: Pipeline, signatures: Mapping[str, Signature]) -> Plan:
    """Check a pipeline and make it ready to run.

    Args:
        pipeline: as written.
        signatures: of all models and pipelines that it calls.

    Raises:
        Mistake: its steps do not fit one another; the message names the one that does not.
    """
    return _build(pipeline.root, signatures, "")


def _build(node: Any, signatures: Mapping[str, Signature], at: str) -> Plan:
    def below(child: Any, place: str) -> Plan:
        return _build(child, signatures, f"{at}, {place}" if at else place)

    if isinstance(node, Step):
        return StepPlan(f"{at or 'step'} ({node.model})", node, signatures[node.model])
    if isinstance(node, Sequence):
        steps = [below(step, f"step {number}") for number, step in enumerate(node.steps, 1)]
        return SequencePlan(steps, [step.take for step in node.steps[1:]])
    if isinstance(node, Ensemble):
        members = [below(member, f"member {number}") for number, member in enumerate(node.members, 1)]
        return EnsemblePlan(at or "ensemble", node, members)
    if isinstance(node, FanOut):
        return FanOutPlan(at or "fan-out", {name: below(child, name) for name, child in node.to.items()})
    assert isinstance(node, Branch)
    ways = {arm.name: below(arm.then, f"branch {arm.name}") for arm in node.arms}
    ways["otherwise"] = below(node.otherwise, "branch otherwise")
    return BranchPlan(at or "branch", node, below(node.by, "by") if node.by else None, ways)
