"""Branch: each row goes to the node of the first case whose conditions it meets, else to the default."""

from typing import Any

from deployments.pipelines.node import PlanNode
from deployments.pipelines.request_context import (
    ALL_LABELS,
    Raw,
    RequestContext,
    RowBatch,
    decode_json,
    encode_json,
    run_concurrently,
)
from deployments.specs.pipeline import Branch
from deployments.specs.signature import (
    BranchOutput,
    NamedOutputs,
    describe_output,
    merge_inputs,
    reduce_to_model_output,
)
from training.errors import UserError
from training.schema import NumberOutput


class BranchPlan:
    """A node for each case, and the router whose output the conditions read, if there is one."""

    def __init__(self, path: str, branch: Branch, router: PlanNode | None, nodes: dict[str, PlanNode]) -> None:
        """Check a branch.

        Args:
            path: of it, for messages; empty for the root.
            branch: as specified.
            router: its router, checked.
            nodes: the node of each case by name, and of "default", checked.
        """
        self.path, self._router, self._nodes, self._cases = path or "branch", router, nodes, branch.cases
        children = [*([router] if router else []), *nodes.values()]
        self.inputs = merge_inputs(self.path, [(node.path, node.inputs) for node in children])
        self.output = BranchOutput(outputs={name: node.output for name, node in nodes.items()})
        self.example = children[0].example
        for node in nodes.values():
            if _has_key(node.output, "branch"):
                raise UserError(f"{node.path}: its output has the key `branch`, which a branch adds; rename it")
        self._condition_schema: Any = reduce_to_model_output(router.output) if router else self.inputs[0]
        if self._condition_schema is None:
            assert router is not None
            raise UserError(
                f"{router.path} returns {describe_output(router.output)}, which no condition reads; use a single model"
            )
        for case in branch.cases:
            for condition in case.when:
                condition.check(", ".join(filter(None, (path, f"case {case.name}"))), self._condition_schema)

    async def run(self, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """See PlanNode; a node that gets no rows is not called."""
        condition_values = await self._router.run(batch, context, ALL_LABELS) if self._router else batch.rows
        indexes_by_name: dict[str, list[int]] = {}
        for index, value in enumerate(condition_values):
            indexes_by_name.setdefault(self._select_case(decode_json(value)), []).append(index)
        node_predictions = await run_concurrently(
            self._nodes[name].run(batch.select(indexes), context, top_k) for name, indexes in indexes_by_name.items()
        )
        predictions: dict[int, Raw] = {}
        for (name, indexes), node_rows in zip(indexes_by_name.items(), node_predictions, strict=True):
            predictions |= zip(indexes, (_add_branch(each, name) for each in node_rows), strict=True)
        return [predictions[index] for index in range(len(batch.rows))]

    def _select_case(self, value: Any) -> str:
        for case in self._cases:
            if all(condition.holds(value, self._condition_schema) for condition in case.when):
                return case.name
        return "default"


def _has_key(output: Any, key: str) -> bool:
    return (isinstance(output, NumberOutput) and output.name == key) or (
        isinstance(output, NamedOutputs) and key in output.outputs
    )


def _add_branch(prediction: Raw, name: str) -> Raw:
    """Add the case's name to a prediction, in front of that of a branch within."""
    fields = decode_json(prediction)
    inner = fields.get("branch")
    return encode_json(fields | {"branch": f"{name}/{inner}" if isinstance(inner, str) else name})
