"""What every node of a plan is to the others."""

from typing import Any, Protocol

from deployments.pipelines.call import Raw, RequestContext, RowBatch
from training.schema import InputSchema


class PlanNode(Protocol):
    """A checked node.

    Attributes:
        path: where it stands, for messages: `step 2, member 1 (iris)`.
        inputs: the words that its rows are in.
        output: what it answers with; see signature.Gives.
        example: one row that works.
    """

    path: str
    inputs: tuple[InputSchema, ...]
    output: Any
    example: Any

    async def run(self, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """Answer rows, one prediction for each, in their order; labels at most top_k."""
