"""Fan-out: the same rows to several nodes at once; each one's output under its name."""

from deployments.pipelines.node import PlanNode
from deployments.pipelines.request_context import Raw, RequestContext, RowBatch, encode_json, run_concurrently
from deployments.specs.signature import NamedOutputs, merge_inputs


class FanOutPlan:
    """Nodes by name."""

    def __init__(self, path: str, nodes: dict[str, PlanNode]) -> None:
        self.path, self._nodes = path, nodes
        self.inputs = merge_inputs(path, [(node.path, node.inputs) for node in nodes.values()])
        self.output = NamedOutputs(outputs={name: node.output for name, node in nodes.items()})
        self.example = next(iter(nodes.values())).example

    async def run(self, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """See PlanNode."""
        node_predictions = await run_concurrently(node.run(batch, context, top_k) for node in self._nodes.values())
        return [encode_json(dict(zip(self._nodes, row, strict=True))) for row in zip(*node_predictions, strict=True)]
