"""Sequence: an adapter makes each node's rows from the rows and predictions of the node before."""

from collections.abc import Sequence as SequenceOf
from typing import Any

from deployments.pipelines.adapters import Adapter, build_adapter
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
from deployments.specs.pipeline import AdapterName
from deployments.specs.signature import ItemOutputs


class SequencePlan:
    """Nodes, and the adapters between them."""

    def __init__(self, nodes: list[PlanNode], adapter_names: SequenceOf[AdapterName | None]) -> None:
        """Check a sequence.

        Args:
            nodes: N of them, checked.
            adapter_names: `input_from` of all but the first; N - 1 of them.
        """
        self._nodes = nodes
        self._adapters: list[Adapter] = []
        for source, target, name in zip(nodes, nodes[1:], adapter_names, strict=False):
            assert name is not None, "the specification requires it"
            self._adapters.append(build_adapter(target.path, name, source.inputs, source.output, target.inputs))
        self.path, self.inputs, self.example = nodes[0].path, nodes[0].inputs, nodes[0].example
        self.output: Any = nodes[-1].output
        for adapter in reversed(self._adapters):
            if adapter.items_output is not None:
                self.output = ItemOutputs(items=adapter.items_output, output=self.output)

    async def run(self, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """See PlanNode."""
        return await self._run_from(0, batch, context, top_k)

    async def _run_from(self, index: int, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """Run the nodes from this index on."""
        if not batch.rows:
            return []
        if index == len(self._adapters):
            return await self._nodes[index].run(batch, context, top_k)
        adapter = self._adapters[index]
        predictions = [decode_json(each) for each in await self._nodes[index].run(batch, context, ALL_LABELS)]
        converted = await run_concurrently(
            adapter.convert_rows(decode_json(row), prediction, context)
            for row, prediction in zip(batch.rows, predictions, strict=True)
        )
        next_rows = [encode_json(row) for rows in converted for row in rows]
        row_numbers = [number for number, rows in zip(batch.row_numbers, converted, strict=True) for _ in rows]
        outputs = await self._run_from(index + 1, RowBatch(next_rows, row_numbers), context, top_k)
        if adapter.items_key is None:
            return outputs
        item_outputs = iter(outputs)
        return [
            encode_json(
                {adapter.items_key: [item | {"output": next(item_outputs)} for item in prediction[adapter.items_key]]}
            )
            for prediction in predictions
        ]
