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
from deployments.pipelines.model_node import ModelNodePlan
from deployments.pipelines.node import PlanNode
from deployments.pipelines.sequence import SequencePlan
from deployments.specs.pipeline import Branch, Ensemble, FanOut, ModelNode, Pipeline, Sequence
from deployments.specs.record import PipelineEndpoint
from deployments.specs.signature import Signature


def build_plan(endpoint: PipelineEndpoint) -> PlanNode:
    """Check a deployed pipeline and make it ready to run; raises Mistake where its steps do not fit."""
    return build_node(endpoint.pipeline, endpoint.signatures)


def pipeline_signature(endpoint: PipelineEndpoint) -> Signature:
    """What a deployed pipeline takes and gives, for those that call it."""
    plan = build_plan(endpoint)
    return Signature(inputs=plan.inputs, output=plan.output, example=plan.example)


def build_node(pipeline: Pipeline, signatures: Mapping[str, Signature]) -> PlanNode:
    """Check a pipeline and make it ready to run.

    Args:
        pipeline: as written.
        signatures: of all models and pipelines that it calls.

    Raises:
        Mistake: its steps do not fit one another; the message names the one that does not.
    """
    return _build_node(pipeline.root, signatures, "")


def _build_node(node: Any, signatures: Mapping[str, Signature], at: str) -> PlanNode:
    def below(child: Any, place: str) -> PlanNode:
        return _build_node(child, signatures, f"{at}, {place}" if at else place)

    if isinstance(node, ModelNode):
        return ModelNodePlan(f"{at or 'step'} ({node.model})", node, signatures[node.model])
    if isinstance(node, Sequence):
        steps = [below(step, f"step {number}") for number, step in enumerate(node.nodes, 1)]
        return SequencePlan(steps, [step.input_from for step in node.nodes[1:]])
    if isinstance(node, Ensemble):
        members = [below(member, f"member {number}") for number, member in enumerate(node.members, 1)]
        return EnsemblePlan(at or "ensemble", node, members)
    if isinstance(node, FanOut):
        return FanOutPlan(at or "fan-out", {name: below(child, name) for name, child in node.nodes.items()})
    assert isinstance(node, Branch)
    ways = {arm.name: below(arm.then, f"branch {arm.name}") for arm in node.cases}
    ways["default"] = below(node.default, "branch default")
    return BranchPlan(at or "branch", node, below(node.router, "router") if node.router else None, ways)
