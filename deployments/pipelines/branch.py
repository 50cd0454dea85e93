"""A branch: each row goes the way of the first arm whose conditions it meets; the answers keep the rows' order."""

from typing import Any

from deployments.pipelines.call import ALL_LABELS, Batch, Call, Raw, raw, together, value
from deployments.pipelines.node import Plan
from deployments.pipelines.signature import OneOf, Several, agreed, plain, told
from deployments.pipelines.spec import Branch
from training.errors import Mistake
from training.words import Number


class BranchPlan:
    """Ways by name, and what decides between them."""

    def __init__(self, path: str, branch: Branch, by: Plan | None, ways: dict[str, Plan]) -> None:
        self.path, self._by, self._ways, self._arms = path, by, ways, branch.arms
        nodes = [*([by] if by else []), *ways.values()]
        self.takes = agreed(path, [(node.path, node.takes) for node in nodes])
        self.gives = OneOf(answers={name: node.gives for name, node in ways.items()})
        self.example = nodes[0].example
        for node in ways.values():
            if _has_key(node.gives, "branch"):
                raise Mistake(f"{node.path}: its answer has a key `branch` of its own; give it another name")
        self._of: Any = plain(by.gives) if by else self.takes[0]
        if self._of is None:
            assert by is not None
            raise Mistake(f"{by.path}: answers with {told(by.gives)}, which no condition is for; ask one model")
        for arm in branch.arms:
            for condition in arm.when:
                condition.check(f"{path}, branch {arm.name}" if path != "branch" else f"branch {arm.name}", self._of)

    async def run(self, batch: Batch, call: Call, top_k: int) -> list[Raw]:
        """See node.Plan; ways that no row goes are not asked."""
        looked_at = await self._by.run(batch, call, ALL_LABELS) if self._by else batch.rows
        ways: dict[str, list[int]] = {}
        for index, each in enumerate(looked_at):
            ways.setdefault(self._way(value(each)), []).append(index)
        answers = await together(
            self._ways[name].run(batch.only(indexes), call, top_k) for name, indexes in ways.items()
        )
        said: dict[int, Raw] = {}
        for (name, indexes), answered in zip(ways.items(), answers, strict=True):
            said |= zip(indexes, (_told(each, name) for each in answered), strict=True)
        return [said[index] for index in range(len(batch.rows))]

    def _way(self, looked_at: Any) -> str:
        for arm in self._arms:
            if all(condition.holds(looked_at, self._of) for condition in arm.when):
                return arm.name
        return "otherwise"


def _has_key(gives: Any, key: str) -> bool:
    return (isinstance(gives, Number) and gives.name == key) or (isinstance(gives, Several) and key in gives.answers)


def _told(prediction: Raw, way: str) -> Raw:
    """A prediction with the way that its row went; that of a branch within comes after it."""
    said = value(prediction)
    return raw(said | {"branch": f"{way}/{said['branch']}" if isinstance(said.get("branch"), str) else way})
