"""A fan-out: the same rows to several at once, each one's answer under its name."""

from deployments.pipelines.call import Batch, Call, Raw, raw, together
from deployments.pipelines.node import Plan
from deployments.pipelines.signature import Several, agreed


class FanOutPlan:
    """Nodes by name."""

    def __init__(self, path: str, to: dict[str, Plan]) -> None:
        self.path, self._to = path, to
        self.takes = agreed(path, [(node.path, node.takes) for node in to.values()])
        self.gives = Several(answers={name: node.gives for name, node in to.items()})
        self.example = next(iter(to.values())).example

    async def run(self, batch: Batch, call: Call, top_k: int) -> list[Raw]:
        """See node.Plan."""
        answers = await together(node.run(batch, call, top_k) for node in self._to.values())
        return [raw(dict(zip(self._to, row, strict=True))) for row in zip(*answers, strict=True)]
