"""A fan-out: the same rows to several at once, each one's answer under its name."""

from deployments.pipelines.call import Raw, RequestContext, RowBatch, encode_json, run_concurrently
from deployments.pipelines.node import PlanNode
from deployments.specs.signature import NamedOutputs, merge_inputs


class FanOutPlan:
    """Nodes by name."""

    def __init__(self, path: str, to: dict[str, PlanNode]) -> None:
        self.path, self._to = path, to
        self.inputs = merge_inputs(path, [(node.path, node.inputs) for node in to.values()])
        self.output = NamedOutputs(outputs={name: node.output for name, node in to.items()})
        self.example = next(iter(to.values())).example

    async def run(self, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """See node.Plan."""
        answers = await run_concurrently(node.run(batch, call, top_k) for node in self._to.values())
        return [encode_json(dict(zip(self._to, row, strict=True))) for row in zip(*answers, strict=True)]
