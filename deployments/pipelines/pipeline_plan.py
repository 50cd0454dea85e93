"""Pipeline plan: a pipeline whose nodes are checked against one another, ready to run.

Deploy walk: compatibility.py or executor.py -> [pipeline_plan.py] -> model_node.py
Request walk: executor.py -> [pipeline_plan.py: run] -> model_node.py
Knows nothing of Ray or HTTP: the function that calls a model comes with each request.
"""

from collections.abc import Mapping
from typing import Any

from deployments.pipelines.branch import BranchPlan
from deployments.pipelines.ensemble import EnsemblePlan
from deployments.pipelines.fan_out import FanOutPlan
from deployments.pipelines.model_node import ModelNodePlan
from deployments.pipelines.node import PlanNode
from deployments.pipelines.sequence import SequencePlan
from deployments.specs.deployment import PipelineEndpoint
from deployments.specs.pipeline import Branch, Ensemble, FanOut, ModelNode, Sequence
from deployments.specs.signature import Signature


def build_plan(endpoint: PipelineEndpoint) -> PlanNode:
    """Check a pipeline and make it ready to run.

    Raises:
        UserError: its nodes do not fit one another; the message names the one that does not.
    """
    return _build_node(endpoint.pipeline.root, endpoint.signatures, "")


def build_pipeline_signature(endpoint: PipelineEndpoint) -> Signature:
    """Build the signature of a pipeline, for those that call it."""
    plan = build_plan(endpoint)
    return Signature(inputs=plan.inputs, output=plan.output, example=plan.example)


def _build_node(node: Any, signatures: Mapping[str, Signature], path: str) -> PlanNode:
    def build_child(child: Any, name: str) -> PlanNode:
        return _build_node(child, signatures, f"{path}, {name}" if path else name)

    if isinstance(node, ModelNode):
        return ModelNodePlan(f"{path or 'node'} ({node.model})", node, signatures[node.model])
    if isinstance(node, Sequence):
        nodes = [build_child(child, f"node {number}") for number, child in enumerate(node.nodes, 1)]
        return SequencePlan(nodes, [child.input_from for child in node.nodes[1:]])
    if isinstance(node, Ensemble):
        members = [build_child(member, f"member {number}") for number, member in enumerate(node.members, 1)]
        return EnsemblePlan(path or "ensemble", node, members)
    if isinstance(node, FanOut):
        return FanOutPlan(path or "fan-out", {name: build_child(child, name) for name, child in node.nodes.items()})
    assert isinstance(node, Branch)
    cases = {case.name: build_child(case.then, f"case {case.name}") for case in node.cases}
    cases["default"] = build_child(node.default, "default")
    return BranchPlan(path, node, build_child(node.router, "router") if node.router else None, cases)
