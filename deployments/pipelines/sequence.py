"""A sequence: each step's rows are made of what the step before answered."""

from collections.abc import Sequence as Listed
from typing import Any

from deployments.pipelines.adapters import Adapter, build_adapter
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
from deployments.specs.pipeline import AdapterName
from deployments.specs.signature import ItemOutputs


class SequencePlan:
    """Steps and the transfers between them."""

    def __init__(self, steps: list[PlanNode], takes: Listed[AdapterName | None]) -> None:
        self._steps = steps
        self._transfers: list[Adapter] = []
        for before, step, take in zip(steps, steps[1:], takes, strict=False):
            assert take is not None, "the specification says so"
            self._transfers.append(build_adapter(step.path, take, before.inputs, before.output, step.inputs))
        self.path, self.inputs, self.example = steps[0].path, steps[0].inputs, steps[0].example
        self.output: Any = steps[-1].output
        for between in reversed(self._transfers):
            if between.of is not None:
                self.output = ItemOutputs(of=between.of, output=self.output)

    async def run(self, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """See node.Plan."""
        return await self._from(0, batch, call, top_k)

    async def _from(self, index: int, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """Answer with the steps from this one on."""
        if not batch.rows:
            return []
        if index == len(self._transfers):
            return await self._steps[index].run(batch, call, top_k)
        answered = await self._steps[index].run(batch, call, ALL_LABELS)
        between = self._transfers[index]
        predictions = [decode_json(each) for each in answered]
        made = await run_concurrently(
            between.rows(decode_json(row), prediction) for row, prediction in zip(batch.rows, predictions, strict=True)
        )
        rows = [encode_json(row) for some in made for row in some]
        places = [place for place, some in zip(batch.row_numbers, made, strict=True) for _ in some]
        rest = await self._from(index + 1, RowBatch(rows, places), call, top_k)
        if between.items is None:
            return rest
        following = iter(rest)
        return [
            encode_json({between.items: [item | {"answer": next(following)} for item in prediction[between.items]]})
            for prediction in predictions
        ]
