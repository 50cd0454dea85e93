"""A branch: each row goes the way of the first arm whose conditions it meets; the answers keep the rows' order."""

from typing import Any

from deployments.pipelines.call import (
    ALL_LABELS,
    Raw,
    RequestContext,
    RowBatch,
    decode_json,
    encode_json,
    run_concurrently,
)
from deployments.pipelines.node import PlanNode
from deployments.specs.pipeline import Branch
from deployments.specs.signature import BranchOutput, NamedOutputs, common_output, describe_output, merge_inputs
from training.errors import UserError
from training.schema import NumberOutput


class BranchPlan:
    """Ways by name, and what decides between them."""

    def __init__(self, path: str, branch: Branch, by: PlanNode | None, ways: dict[str, PlanNode]) -> None:
        self.path, self._by, self._ways, self._arms = path, by, ways, branch.cases
        nodes = [*([by] if by else []), *ways.values()]
        self.inputs = merge_inputs(path, [(node.path, node.inputs) for node in nodes])
        self.output = BranchOutput(outputs={name: node.output for name, node in ways.items()})
        self.example = nodes[0].example
        for node in ways.values():
            if _has_key(node.output, "branch"):
                raise UserError(f"{node.path}: its answer has a key `branch` of its own; give it another name")
        self._of: Any = common_output(by.output) if by else self.inputs[0]
        if self._of is None:
            assert by is not None
            raise UserError(
                f"{by.path}: answers with {describe_output(by.output)}, which no condition is for; ask one model"
            )
        for arm in branch.cases:
            for condition in arm.when:
                condition.check(f"{path}, branch {arm.name}" if path != "branch" else f"branch {arm.name}", self._of)

    async def run(self, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """See node.Plan; ways that no row goes are not asked."""
        looked_at = await self._by.run(batch, call, ALL_LABELS) if self._by else batch.rows
        ways: dict[str, list[int]] = {}
        for index, each in enumerate(looked_at):
            ways.setdefault(self._way(decode_json(each)), []).append(index)
        answers = await run_concurrently(
            self._ways[name].run(batch.select(indexes), call, top_k) for name, indexes in ways.items()
        )
        said: dict[int, Raw] = {}
        for (name, indexes), answered in zip(ways.items(), answers, strict=True):
            said |= zip(indexes, (_told(each, name) for each in answered), strict=True)
        return [said[index] for index in range(len(batch.rows))]

    def _way(self, looked_at: Any) -> str:
        for arm in self._arms:
            if all(condition.holds(looked_at, self._of) for condition in arm.when):
                return arm.name
        return "default"


def _has_key(gives: Any, key: str) -> bool:
    return (isinstance(gives, NumberOutput) and gives.name == key) or (
        isinstance(gives, NamedOutputs) and key in gives.outputs
    )


def _told(prediction: Raw, way: str) -> Raw:
    """A prediction with the way that its row went; that of a branch within comes after it."""
    said = decode_json(prediction)
    return encode_json(said | {"branch": f"{way}/{said['branch']}" if isinstance(said.get("branch"), str) else way})
