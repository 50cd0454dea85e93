"""A sequence: each step's rows are made of what the step before answered."""

from collections.abc import Sequence as Listed
from typing import Any

from deployments.pipelines.call import ALL_LABELS, Batch, Call, Raw, raw, together, value
from deployments.pipelines.node import Plan
from deployments.pipelines.signature import Items
from deployments.pipelines.spec import Take
from deployments.pipelines.transfers import Transfer, transfer


class SequencePlan:
    """Steps and the transfers between them."""

    def __init__(self, steps: list[Plan], takes: Listed[Take | None]) -> None:
        self._steps = steps
        self._transfers: list[Transfer] = []
        for before, step, take in zip(steps, steps[1:], takes, strict=False):
            assert take is not None, "the specification says so"
            self._transfers.append(transfer(step.path, take, before.takes, before.gives, step.takes))
        self.path, self.takes, self.example = steps[0].path, steps[0].takes, steps[0].example
        self.gives: Any = steps[-1].gives
        for between in reversed(self._transfers):
            if between.of is not None:
                self.gives = Items(of=between.of, answer=self.gives)

    async def run(self, batch: Batch, call: Call, top_k: int) -> list[Raw]:
        """See node.Plan."""
        return await self._from(0, batch, call, top_k)

    async def _from(self, index: int, batch: Batch, call: Call, top_k: int) -> list[Raw]:
        """Answer with the steps from this one on."""
        if not batch.rows:
            return []
        if index == len(self._transfers):
            return await self._steps[index].run(batch, call, top_k)
        answered = await self._steps[index].run(batch, call, ALL_LABELS)
        between = self._transfers[index]
        predictions = [value(each) for each in answered]
        made = await together(
            between.rows(value(row), prediction) for row, prediction in zip(batch.rows, predictions, strict=True)
        )
        rows = [raw(row) for some in made for row in some]
        places = [place for place, some in zip(batch.places, made, strict=True) for _ in some]
        rest = await self._from(index + 1, Batch(rows, places), call, top_k)
        if between.items is None:
            return rest
        following = iter(rest)
        return [
            raw({between.items: [item | {"answer": next(following)} for item in prediction[between.items]]})
            for prediction in predictions
        ]
